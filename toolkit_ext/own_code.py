"""Code of the user's own: a function or class of a file, ``FILE.py:NAME``. Loading one runs the file.

The callers say so once, see docs/security.md.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from toolkit_ext.errors import UserError, one_line

_SOURCE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)")


def is_own_code(source: str | Path) -> bool:
    """Whether ``source`` is of the form ``FILE.py:NAME``."""
    return _SOURCE.fullmatch(str(source)) is not None


def split(source: str, option: str = "backbone", name: str = "FACTORY") -> tuple[Path, str]:
    """File and name of ``FILE.py:NAME``; :class:`UserError`, which calls the latter ``name``, for another form."""
    if (parts := _SOURCE.fullmatch(source)) is None:
        raise UserError(f"{option}: {source!r} is not allowed; write FILE.py:{name}")
    return Path(parts["file"]), parts["name"]


def load_own(source: str, option: str = "backbone") -> Callable[..., Any]:
    """The function or class of ``source``, ``FILE.py:NAME``; its file is run once.

    Raises:
        UserError: no such file or name, a file that fails, or something that cannot be called.
    """
    path, name = split(source, option)
    found: Any = run_file(option, path)
    for part in name.split("."):
        if not hasattr(found, part):
            known = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            raise UserError(f"{option}: {path} has no {part!r}; it has {', '.join(known) or 'no functions'}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"{option}: {source} is a {type(found).__name__}; give a function or a class")
    return found  # type: ignore[no-any-return]


def identity_of(source: str, option: str = "backbone", name: str = "FACTORY") -> str:
    """``FILE.py:NAME`` without folders, and the SHA-256 of the file: what identifies own code, wherever it lies."""
    path, found = split(source, option, name)
    if not path.is_file():
        raise UserError(f"{option}: {path}: no such file; write FILE.py:{name}")
    return f"{path.name}:{found}@{hashlib.sha256(path.read_bytes()).hexdigest()}"


def run_file(option: str, path: Path) -> ModuleType:
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
        raise UserError(f"{option}: {path} fails ({error_text(error)})") from error
    finally:
        sys.path.remove(str(full.parent))
    return module


def error_text(error: BaseException) -> str:
    """Type and message of what somebody's code raised, in one line."""
    return f"{type(error).__name__}: {one_line(error, 200)}"
