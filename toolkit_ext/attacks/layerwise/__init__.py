"""The deep adversarial attack on the input and hidden layers, which no library offers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from toolkit_ext.attacks.layerwise.attack import Deep

if TYPE_CHECKING:
    from toolkit_ext.attacks.layerwise.layers import Hidden, choose
    from toolkit_ext.attacks.layerwise.neurons import cross_entropy

__all__ = ["Deep", "Hidden", "choose", "cross_entropy"]

_NEED_TORCH = {"Hidden": "layers", "choose": "layers", "cross_entropy": "neurons"}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
