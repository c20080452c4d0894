"""Saving inside an epoch: when it is time, and what the rest of the epoch needs to give the same bits."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from toolkit_ext.random_state import generator_states
from toolkit_ext.ranks import Ranks
from toolkit_ext.trainers.meter import Averages


class SaveClock:
    """Says when the next save inside an epoch is due: ``minutes`` after the last save; 0 is never."""

    def __init__(self, minutes: float, ranks: Ranks) -> None:
        self.seconds, self.ranks = 60 * minutes, ranks
        self.restart()

    def restart(self) -> None:
        """Count from now."""
        self._last = time.perf_counter()

    def due(self) -> bool:
        """Whether to save now; all ranks decide as the first."""
        if not self.seconds:
            return False
        return self.ranks.first(lambda: time.perf_counter() - self._last >= self.seconds)


@dataclass(frozen=True)
class UnfinishedEpoch:
    """An epoch after ``batches`` of its batches: the averages of each rank, random states, seconds so far."""

    batches: int
    seconds: float
    averages: list[dict[str, Any]]
    generators: dict[str, Any]

    @classmethod
    def now(cls, batches: int, seconds: float, averages: Averages, ranks: Ranks) -> UnfinishedEpoch:
        """The epoch as it stands; all ranks call it."""
        return cls(batches, seconds, ranks.gather(averages.state_dict()), generator_states())

    def state_dict(self) -> dict[str, Any]:
        """For ``trainer_state.pt``."""
        return asdict(self)

    def averages_of(self, ranks: Ranks) -> Averages:
        """The averages that this rank goes on with, also if there are more or fewer ranks than there were."""
        own = Averages()
        for state in self.averages[ranks.rank :: ranks.size]:
            own.add_state(state)
        return own
