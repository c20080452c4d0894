"""Networks of the user's own code: ``FILE.py:FACTORY``, and modules whose import registers them with timm.

Both run code. The callers say so once, see docs/security.md.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from toolkit_ext.errors import UserError
from toolkit_ext.own_code import error_text, identity_of, is_own_code, load_own, run_file, split

__all__ = ["build_own", "identity_of", "import_modules", "is_own_code", "split"]


def import_modules(names: Sequence[str]) -> None:
    """Import the user's modules ``names`` (``package.module`` or ``FILE.py``), also from the current folder.

    Raises:
        UserError: one cannot be imported.
    """
    for name in names:
        if name.endswith(".py"):
            run_file("import", Path(name))
            continue
        if os.getcwd() not in sys.path:  # as python -m has it
            sys.path.insert(0, os.getcwd())
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever the user's code raises
            raise UserError(f"import: {name!r} cannot be imported ({error_text(error)})") from error


def build_own(source: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network that the function or class of ``source``, ``FILE.py:FACTORY``, makes with ``arguments``.

    Raises:
        UserError: no such file or name, or code that fails; something else than a ``torch.nn.Module``.
    """
    factory = load_own(source)
    _check_arguments(source, factory, arguments)
    try:
        model = factory(**arguments)
    except Exception as error:
        raise UserError(f"backbone: {source} cannot be built ({error_text(error)})") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"backbone: {source} returns a {type(model).__name__}; it must return a torch.nn.Module")
    return model


def _check_arguments(source: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    try:
        inspect.signature(factory).bind(**arguments)
    except ValueError:  # built in, so it does not tell
        return
    except TypeError as error:
        raise UserError(f"backbone-arg: {source}: {error}") from error
