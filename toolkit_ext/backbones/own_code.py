"""Networks of the user's own code: ``FILE.py:FACTORY``, and modules whose import registers them with timm.

Both run code. The callers say so once, see docs/security.md.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from toolkit_ext.errors import UserError, one_line

_SOURCE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)")


def is_own_code(source: str | Path) -> bool:
    """Whether ``source`` is of the form ``FILE.py:FACTORY``."""
    return _SOURCE.fullmatch(str(source)) is not None


def import_modules(names: Sequence[str]) -> None:
    """Import the user's modules ``names`` (``package.module`` or ``FILE.py``), also from the current folder.

    Raises:
        UserError: one cannot be imported.
    """
    for name in names:
        if name.endswith(".py"):
            _run("import", Path(name))
            continue
        if os.getcwd() not in sys.path:  # as python -m has it
            sys.path.insert(0, os.getcwd())
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever the user's code raises
            raise UserError(f"import: {name!r} cannot be imported ({_told(error)})") from error


def build_own(source: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network that the function or class of ``source``, ``FILE.py:FACTORY``, makes with ``arguments``.

    Raises:
        UserError: no such file or name, or code that fails; something else than a ``torch.nn.Module``.
    """
    path, name = split(source)
    found: Any = _run("backbone", path)
    for part in name.split("."):
        if not hasattr(found, part):
            known = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            raise UserError(f"backbone: {path} has no {part!r}; it has {', '.join(known) or 'no functions'}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"backbone: {source} is a {type(found).__name__}; give a function or a class")
    _check_arguments(source, found, arguments)
    try:
        model = found(**arguments)
    except Exception as error:
        raise UserError(f"backbone: {source} cannot be built ({_told(error)})") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"backbone: {source} returns a {type(model).__name__}; it must return a torch.nn.Module")
    return model


def identity_of(source: str) -> str:
    """``FILE.py:FACTORY`` without folders, and the SHA-256 of the file: what identifies own code, wherever it lies."""
    path, name = split(source)
    if not path.is_file():
        raise UserError(f"backbone: {path}: no such file; write FILE.py:FACTORY")
    return f"{path.name}:{name}@{hashlib.sha256(path.read_bytes()).hexdigest()}"


def split(source: str) -> tuple[Path, str]:
    """File and name of ``FILE.py:FACTORY``; :class:`UserError` for another form."""
    if (parts := _SOURCE.fullmatch(source)) is None:
        raise UserError(f"backbone: {source!r} is not allowed; write FILE.py:FACTORY")
    return Path(parts["file"]), parts["name"]


def _check_arguments(source: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    try:
        inspect.signature(factory).bind(**arguments)
    except ValueError:  # built in, so it does not tell
        return
    except TypeError as error:
        raise UserError(f"backbone-arg: {source}: {error}") from error


def _run(option: str, path: Path) -> ModuleType:
    """The module in the file ``path``, run once; modules beside it can be imported."""
    if not path.is_file():
        raise UserError(f"{option}: {path}: no such file")
    full = path.resolve()
    name = f"{path.stem}_{hashlib.sha256(str(full).encode() + path.read_bytes()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, full)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look there
    sys.path.insert(0, str(full.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"{option}: {path} fails ({_told(error)})") from error
    finally:
        sys.path.remove(str(full.parent))
    return module


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error, 200)}"
