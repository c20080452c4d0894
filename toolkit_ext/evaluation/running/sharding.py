"""An evaluation shared by the ranks of a job: each attacks whole batches, and all put the same results together.

Batches are those of one process, and the random numbers of an attack are seeded for each batch, so every image gets the
result that one process gives it. (A randomised model, which draws numbers of its own, gives other ones; results of it
are random either way.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from toolkit_ext.evaluation.running.runner import Job, Runner, Stored
from toolkit_ext.evaluation.running.state import State, join_state, open_state
from toolkit_ext.ranks import Ranks, told_plainly


class ShardedRunner(Runner):
    """A :class:`Runner` on one of several ranks; ``seconds`` are those of all ranks together."""

    ranks: Ranks

    def batches(self, job: Job, parts: list[Tensor]) -> Iterator[Stored]:
        """Attack every ``size``-th batch here; then take all results, in order, from the ranks that have them."""
        own: dict[int, Stored] = {}
        for number in range(self.ranks.rank, len(parts), self.ranks.size):
            with told_plainly("in the evaluation", self.device):
                own[number] = self.stored(job, number, parts[number])
        found = {number: stored for theirs in self.ranks.gather(own) for number, stored in theirs.items()}
        for number in range(len(parts)):
            yield found[number]


def make_runner(ranks: Ranks, *fields: Any) -> Runner:
    """A runner for one process or for several, with the ``fields`` of :class:`Runner`."""
    if ranks.alone:
        return Runner(*fields)
    runner = ShardedRunner(*fields)
    runner.ranks = ranks
    return runner


@contextmanager
def shared_state(
    folder: str | Path | None, key: dict[str, Any], ranks: Ranks, *, fresh: bool = False
) -> Iterator[State]:
    """The :func:`open_state` of rank 0, joined by the others; ``key`` has to be the same on all.

    Raises:
        UserError: as for ``open_state``, on all ranks; or the ranks have different models, data or settings.
    """
    ranks.agree(key)
    with ExitStack() as stack:
        if ranks.alone:
            yield stack.enter_context(open_state(folder, key, fresh=fresh))
            return
        opened: list[State] = []
        ranks.first(lambda: opened.append(stack.enter_context(open_state(folder, key, fresh=fresh))))
        yield opened[0] if opened else join_state(folder, key)
        ranks.gather(None)  # rank 0 holds the lock until all have finished
