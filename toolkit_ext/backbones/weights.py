"""Weights from files of others: which state dict of a file, under which prefix, and the hash that identifies it.

Trainers save more than weights, and wrappers prefix their names. :func:`read_weights` finds the state dict in a file,
:func:`load_weights` the prefix under which a model's names are. What was taken is told; what is ambiguous is refused.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError, one_line
from toolkit_ext.tensors import hash_tensors

SUFFIXES = (".safetensors", ".pth", ".pt", ".th", ".ckpt")
_PREFIXES = ("module", "model", "net", "backbone")  # of wrappers, beside _orig_mod of torch.compile
_DEEPEST = 3  # of a state dict inside a file
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_READABLE = ", ".join(SUFFIXES)

State = dict[str, Tensor]


@dataclass(frozen=True)
class Weights:
    """The state dict under ``key`` of the file ``path``; the empty key is the file itself."""

    path: Path
    key: str
    state: State

    @property
    def sha256(self) -> str:
        """SHA-256 of the tensors under their names without wrappers: the same for every file format and nest."""
        return hash_tensors(sorted((_bare(name), value) for name, value in self.state.items()))


@dataclass(frozen=True)
class Taken:
    """What :func:`load_weights` took: in words, with the names left out, and those whose weights stay as they were."""

    words: str
    left_out: tuple[str, ...] = ()
    anew: tuple[str, ...] = ()


def read_weights(path: str | Path, key: str | None = None) -> Weights:
    """Read the state dict in a file of weights, as tensors alone: no code of the file runs.

    Args:
        path: A safetensors file, or one of ``torch.save`` (``.pth``, ``.pt``, ``.th``, ``.ckpt``).
        key: Which state dict, where the file has several: ``model``, ``state_dict_ema``, ``ema.model``, ...

    Raises:
        UserError: no such file, one that needs more than tensors and plain values, no state dict, or several.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights {path}: no such file; give a file of weights ({_READABLE})")
    found = dict(_state_dicts(_read(path)))
    if key is not None and key in found:
        return Weights(path, key, found[key])
    choices = ", ".join(name or "the file itself" for name in found)
    if key is not None:
        raise UserError(f"weights-key: {key!r} is not in {path}, which has {choices or 'no state dict'}")
    if not found:
        raise UserError(f"weights {path}: are no state dict; it must map names to tensors")
    if len(found) > 1:
        raise UserError(f"weights {path}: has several state dicts ({choices}); choose one with --weights-key")
    return Weights(path, *next(iter(found.items())))


def load_weights(
    model: nn.Module, weights: Weights, *, what: str = "the model", may_differ: Callable[[str], bool] | None = None
) -> Taken:
    """Load ``weights`` into ``model`` under whatever prefix its names have there.

    Args:
        model: What the weights are for; changed in place.
        weights: From :func:`read_weights`.
        what: The model in messages, ``'resnet18' of 10 classes``.
        may_differ: Names of weights, such as those of the head, that keep the model's own where the file has none or
            other shapes. By default none may.

    Raises:
        UserError: they do not fit, or fit under several prefixes.
    """
    free: Callable[[str], bool] = may_differ or (lambda name: False)
    ours = model.state_dict()
    prefix, state = _fitting(weights, set(ours))
    anew = tuple(name for name in ours if free(name) and (name not in state or state[name].shape != ours[name].shape))
    kept = {name: value for name, value in state.items() if not free(name) or name in ours.keys() - set(anew)}
    try:
        model.load_state_dict({**kept, **{name: ours[name] for name in anew}})
    except RuntimeError as error:
        raise UserError(f"weights {weights.path}: do not fit {what}: {one_line(error, 300)}") from error
    left_out = tuple(name for name in map(_plain, weights.state) if not name.startswith(prefix))
    words = [weights.key or "the whole file", *([f"without the prefix {prefix}"] if prefix else [])]
    return Taken(", ".join(words), left_out, anew)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(path.read_bytes())
        with torch.serialization.safe_globals([argparse.Namespace]):  # plain values; timm and others save their options
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors raise different ones
        raise UserError(f"weights {path}: cannot be read as tensors alone ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    if named := _GLOBAL.search(str(error)):
        return f"it would run {named[1]}; save model.state_dict() where that code is, without other objects"
    return one_line(error, 120)


def _state_dicts(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, State]]:
    """Every state dict in ``tree`` with its path: mappings of names to tensors alone, with a float among them."""
    if not isinstance(tree, Mapping) or len(path) > _DEEPEST:
        return
    values = list(tree.values())
    if values and all(isinstance(name, str) for name in tree) and all(isinstance(value, Tensor) for value in values):
        if any(value.is_floating_point() for value in values):
            yield ".".join(path), dict(tree)
        return
    for name, value in tree.items():
        yield from _state_dicts(value, (*path, str(name)))


def _fitting(weights: Weights, names: set[str]) -> tuple[str, State]:
    """The prefix under which most of ``names`` are, and the state dict without it."""
    found = dict(_variants(weights.state))
    most = max(len(names & state.keys()) for state in found.values())
    best = [prefix for prefix, state in found.items() if len(names & state.keys()) == most]
    if len(best) > 1 and most:
        raise UserError(f"weights {weights.path}: fit under several prefixes ({', '.join(best)}); save one of them")
    return best[0], found[best[0]]


def _variants(state: State, prefix: str = "") -> Iterator[tuple[str, State]]:
    """``state`` as it is and under every prefix of wrappers; ``_orig_mod`` of compiled layers is dropped anywhere."""
    state = {_plain(name): value for name, value in state.items()}
    yield prefix, state
    for word in _PREFIXES:
        inside = {name[len(word) + 1 :]: value for name, value in state.items() if name.startswith(f"{word}.")}
        if inside:
            yield from _variants(inside, f"{prefix}{word}.")


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _bare(name: str) -> str:
    parts = _plain(name).split(".")
    while len(parts) > 1 and parts[0] in _PREFIXES:
        parts = parts[1:]
    return ".".join(parts)
