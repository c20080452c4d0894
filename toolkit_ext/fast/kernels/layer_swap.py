"""Faster layers in the place of a model's own, by their class, so that copies of a layer use their own weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import nn


def of_class(kind: type[nn.Module]) -> Callable[[nn.Module], bool]:
    """Whether a layer is of class ``kind`` itself, not of one made of it, which may do something else."""
    return lambda layer: type(layer) is kind


class StandIn:
    """Comes before the class that a faster layer is made of: a model prints, and is known by its hash, as before."""

    def _get_name(self) -> str:
        return type(self).__bases__[-1].__name__


@contextmanager
def standing_in(
    models: Iterable[nn.Module], suits: Callable[[nn.Module], bool], faster: type[nn.Module], *, use: bool = True
) -> Iterator[None]:
    """Within the context the layers of ``models`` that suit are of class ``faster``, and copies of them for good.

    ``faster`` is made of :class:`StandIn` and of the class of every layer that suits, and adds no attribute to it.
    Without ``use`` nothing changes.
    """
    layers = {layer: type(layer) for model in models for layer in model.modules() if use and suits(layer)}
    try:
        for layer in layers:
            layer.__class__ = faster
        yield
    finally:
        for layer, own in layers.items():
            layer.__class__ = own
