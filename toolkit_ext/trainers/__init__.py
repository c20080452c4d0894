"""The trainers: one file a method, found by looking through this folder.

A file whose name does not begin with an underscore holds a ``METHOD`` record and one trainer class; that is all a new
method needs to be listed, documented, tested and trained from the command line.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from toolkit_ext.backbones.estimators import as_classifier
from toolkit_ext.trainers.base import MethodTrainer
from toolkit_ext.trainers.loop import NonFiniteLossError

__all__ = ["TRAINERS", "MethodTrainer", "NonFiniteLossError", "as_classifier"]


def _trainer_of(module: ModuleType) -> type[MethodTrainer]:
    found = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    trainers = [kind for kind in found if issubclass(kind, MethodTrainer)]
    record = getattr(module, "METHOD", None)
    if record is None or len(trainers) != 1 or trainers[0].method is not record:
        raise ImportError(f"{module.__name__}: a method's file holds METHOD and one trainer class with method = METHOD")
    expected = module.__name__.rpartition(".")[2]
    if record.name != expected:
        raise ImportError(f"{module.__name__}: METHOD.name is {record.name!r}, the file's name says {expected!r}")
    return trainers[0]


def _discover() -> dict[str, type[MethodTrainer]]:
    names = [info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_")]
    return {name: _trainer_of(importlib.import_module(f"{__name__}.{name}")) for name in names}


TRAINERS: dict[str, type[MethodTrainer]] = _discover()
globals().update({trainer.__name__: trainer for trainer in TRAINERS.values()})


def __getattr__(name: str) -> type[MethodTrainer]:
    # Reached for unknown names only; it also tells type checkers that trainer classes are attributes of this module.
    raise AttributeError(f"toolkit_ext.trainers has no {name}; trainers: {', '.join(sorted(TRAINERS))}")
