"""What the launcher (torchrun) says of this process in its environment; read without torch."""

from __future__ import annotations

import os


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default


def launched() -> bool:
    """Whether a launcher (torchrun) started this process as one of several."""
    return "RANK" in os.environ and _number("WORLD_SIZE", 1) > 1


def local_rank() -> int:
    """Number of this process on its machine."""
    return _number("LOCAL_RANK", 0)


def silent() -> bool:
    """Whether this process prints no notes and tables: all ranks but 0."""
    return launched() and _number("RANK", 0) > 0


def restarted() -> bool:
    """Whether torchrun (``--max-restarts``) restarted this process after a failure; then runs resume."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0) > 0
