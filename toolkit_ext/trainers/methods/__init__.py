"""The methods: one record a file, found by looking through this folder; no file here imports torch."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from toolkit_ext.types import Method


def record_of(module: ModuleType) -> Method:
    """The ``METHOD`` of a method's file.

    Raises:
        ImportError: the file has none, or one of another name than the file's.
    """
    record = getattr(module, "METHOD", None)
    if not isinstance(record, Method):
        raise ImportError(f"{module.__name__}: a method's file holds a record METHOD = Method(...)")
    expected = module.__name__.rpartition(".")[2]
    if record.name != expected:
        raise ImportError(f"{module.__name__}: METHOD.name is {record.name!r}, the file's name says {expected!r}")
    return record


METHODS: dict[str, Method] = {
    info.name: record_of(importlib.import_module(f"{__name__}.{info.name}")) for info in pkgutil.iter_modules(__path__)
}

__all__ = ["METHODS", "record_of"]
