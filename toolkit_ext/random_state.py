"""The global random generators of torch, NumPy and Python: their states, and what leaves them as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def preserved_generators(seed: int | None = None) -> Iterator[None]:
    """Restore the generators of NumPy and Python at the end; with ``seed``, both begin with it.

    Libraries of attacks and transforms draw from them. torch's generator is left alone: the caller knows its devices.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        if seed is not None:
            np.random.seed(seed % 2**32)
            random.seed(seed)
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


class _IsRandomState(type):
    """What is a ``RandomState`` stays one while the class has a stand-in."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _RANDOM_STATE)


class _RandomState(np.random.RandomState, metaclass=_IsRandomState):
    """A ``RandomState`` that begins, without a seed, with a number of the global generator."""

    def __init__(self, seed: Any = None) -> None:
        super().__init__(_derived() if seed is None else seed)


def _default_rng(seed: Any = None) -> np.random.Generator:
    return _DEFAULT_RNG(_derived() if seed is None else seed)


def _derived() -> int:
    return int(np.random.randint(2**32, dtype=np.uint32))


_RANDOM_STATE, _DEFAULT_RNG = np.random.RandomState, np.random.default_rng


@contextmanager
def derived_generators() -> Iterator[None]:
    """Begin each generator of NumPy that is made here without a seed with a number of the global one.

    So whoever seeds the global one repeats them too: some black-box attacks of ART make their own.
    """
    before = np.random.RandomState, np.random.default_rng
    np.random.RandomState, np.random.default_rng = _RandomState, _default_rng  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        np.random.RandomState, np.random.default_rng = before  # type: ignore[misc]


def generator_states() -> dict[str, Any]:
    """The states of torch's, NumPy's and Python's generators, in values that load with ``weights_only``."""
    kind, keys, *rest = np.random.get_state()
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    numpy = (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest)
    return {"torch": torch.get_rng_state(), "numpy": numpy, "python": random.getstate(), **cuda}


def restore_generators(states: Mapping[str, Any]) -> None:
    """Give the generators the states that :func:`generator_states` returned."""
    torch.set_rng_state(states["torch"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    random.setstate(states["python"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
