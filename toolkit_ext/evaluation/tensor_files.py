"""Tensors and text in safetensors files with a checksum of all of it: finished batches, adversarial examples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from toolkit_ext.errors import UserError, one_line
from toolkit_ext.io import atomic_write, say_unchecked
from toolkit_ext.tensors import hash_tensors

_DIGEST = "sha256"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str], name: str = "") -> Path:
    """Write ``tensors`` and ``texts`` atomically; ``name``, if given, has to be the same on reading."""
    return atomic_write(path, save(dict(tensors), {**texts, _DIGEST: _digest(tensors, texts, name)}))


def read_tensors(path: Path, name: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """What :func:`write_tensors` wrote; a file of an older version has no checksum, and a note in the log says so.

    Raises:
        UserError: the file is missing, damaged, changed, or was written under another ``name``; in one line.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            texts = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(one_line(error)) from error
    found = texts.pop(_DIGEST, None)
    if found is None:
        say_unchecked(path.parent)
    elif found != _digest(tensors, texts, name):
        raise UserError("its checksum is that of other data")
    return tensors, texts


def _digest(tensors: Mapping[str, Tensor], texts: Mapping[str, str], name: str) -> str:
    return hash_tensors(sorted(tensors.items()), json.dumps([name, dict(texts)], sort_keys=True))
