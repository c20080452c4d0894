"""The processes ("ranks") of one job. For a single process, :data:`ALONE`, everything here does nothing."""

from toolkit_ext.ranks.errors import RankError, SharedError, friendly_errors, told_elsewhere
from toolkit_ext.ranks.group import ALONE, Ranks
from toolkit_ext.ranks.launch import current, launched, local_rank, restarted, silent, start

__all__ = [
    "ALONE",
    "RankError",
    "Ranks",
    "SharedError",
    "current",
    "friendly_errors",
    "launched",
    "local_rank",
    "restarted",
    "silent",
    "start",
    "told_elsewhere",
]
