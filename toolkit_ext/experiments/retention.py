"""The checkpoints of a run: which of them stay when it is done, how much disk they take, and the folder of a run."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from toolkit_ext.errors import UserError

KINDS = ("last", "best", "snapshots")
_SNAPSHOT = "snapshot-"


def _kind(name: str) -> str:
    """The kind of the checkpoint folder ``name``: itself, or ``snapshots``."""
    return "snapshots" if name.startswith(_SNAPSHOT) else name


def disk_use(folder: Path) -> dict[str, int]:
    """Bytes of the checkpoints of the run in ``folder``, by kind; those it does not have are left out."""
    found: dict[str, int] = {}
    for checkpoint in sorted(folder.iterdir()):
        if (kind := _kind(checkpoint.name)) in KINDS and checkpoint.is_dir():
            found[kind] = found.get(kind, 0) + sum(file.stat().st_size for file in checkpoint.iterdir())
    return found


def in_words(sizes: Mapping[str, int]) -> str:
    """``sizes`` in bytes by kind as ``25.1 MB (last 16.8 MB, best 8.3 MB)``."""
    parts = ", ".join(f"{kind} {_shown(sizes[kind])}" for kind in KINDS if kind in sizes)
    return f"{_shown(sum(sizes.values()))} ({parts})" if parts else "none"


def _shown(size: int) -> str:
    return f"{size / 1e6:.3g} MB" if size < 1e9 else f"{size / 1e9:.3g} GB"


def retain(folder: Path, keep: Collection[str]) -> dict[str, int]:
    """Delete the checkpoints in ``folder`` of the kinds that ``keep`` lacks; what :func:`disk_use` is then."""
    for checkpoint in list(folder.iterdir()):
        kind = _kind(checkpoint.name)
        if kind in KINDS and kind not in keep and checkpoint.is_dir():
            shutil.rmtree(checkpoint)
    return disk_use(folder)


def find_run(option: str, name: str, output: Path, parts: Sequence[str]) -> Path:
    """The folder of the run ``name``, a run_id in ``output`` or a path, which has ``parts``.

    Raises:
        UserError: there is none, or a part is missing.
    """
    folder = next((place for place in (output / name, Path(name)) if place.is_dir()), None)
    if folder is None:
        raise UserError(f"{option}: {name!r} is no run in {output}, and no folder of one")
    # A kill between the two renames of a save leaves the part under another name, which the run itself puts right.
    if missing := [part for part in parts if not any(folder.glob(f"{part}*"))]:
        raise UserError(f"{option}: {folder} has no {missing[0]}; it is no run, or was not kept (--keep)")
    return folder
