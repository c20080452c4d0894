"""The trainers: one class a method, made from the records in :mod:`toolkit_ext.trainers.methods`.

A record is all that a new method needs to be listed, documented, tested and trained from the command line. Trainer
classes are made when they are first asked for, so that the records can be read without torch and ART.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolkit_ext.trainers.methods import METHODS
from toolkit_ext.types import Method

if TYPE_CHECKING:
    from toolkit_ext.backbones.estimators import as_classifier
    from toolkit_ext.trainers.base import MethodTrainer
    from toolkit_ext.trainers.non_finite import NonFiniteLossError

    TRAINERS: dict[str, type[MethodTrainer]]

__all__ = ["METHODS", "TRAINERS", "MethodTrainer", "NonFiniteLossError", "as_classifier", "trainer_class"]


def trainer_class(method: Method) -> type[MethodTrainer]:
    """The trainer of ``method``; its docstring is the method's formula."""
    from toolkit_ext.trainers.base import MethodTrainer

    return type(method.trainer, (MethodTrainer,), {"method": method, "__doc__": method.formula, "__module__": __name__})


def _load() -> dict[str, Any]:
    """What :func:`__getattr__` serves: everything here that needs torch."""
    from toolkit_ext.backbones.estimators import as_classifier
    from toolkit_ext.trainers.base import MethodTrainer
    from toolkit_ext.trainers.non_finite import NonFiniteLossError

    trainers = {name: trainer_class(method) for name, method in METHODS.items()}
    own = {kind.__name__: kind for kind in (MethodTrainer, NonFiniteLossError)}
    return {"TRAINERS": trainers, "as_classifier": as_classifier} | own | {t.__name__: t for t in trainers.values()}


def __getattr__(name: str) -> Any:
    known = {*__all__, *(method.trainer for method in METHODS.values())}
    if name not in known:
        raise AttributeError(f"toolkit_ext.trainers has no {name}; trainers: {', '.join(sorted(METHODS))}")
    globals().update(_load())
    return globals()[name]
