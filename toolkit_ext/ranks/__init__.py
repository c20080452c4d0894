"""The processes ("ranks") of one job: who this one is, what the others have, and its part of a batch.

A job of one process is :data:`ALONE`, for which everything here does nothing; the code above has one path for both.
"""

from __future__ import annotations

from toolkit_ext.ranks._errors import RankError, SharedError, told_elsewhere, told_plainly
from toolkit_ext.ranks._group import ALONE, Ranks
from toolkit_ext.ranks._start import current, launched, local_rank, restarted, silent, start

__all__ = [
    "ALONE",
    "RankError",
    "Ranks",
    "SharedError",
    "current",
    "launched",
    "local_rank",
    "restarted",
    "silent",
    "start",
    "told_elsewhere",
    "told_plainly",
]
