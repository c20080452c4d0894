"""Attack depth first: with a limit of time, the first images are judged before all are attacked by the first attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, count

import torch
from torch import Tensor

from toolkit_ext.evaluation.running.runner import Job, Runner


class _TimeUp(Exception):  # noqa: N818  # no error
    """No further batch may be attacked."""


def run_ahead(runner: Runner, jobs: Sequence[Job], robust: Tensor) -> None:
    """Attack and store batches until time is up: each image by as many ``jobs`` as possible before the next image.

    A job attacks what the one before left of ``robust`` ``[N]`` bool, in the batches of :meth:`Runner.run`, which then
    finds them stored.
    """
    left: Iterator[Tensor] = iter([robust.nonzero().flatten()])
    for job in jobs:
        left = _survivors(runner, job, left)
    with suppress(_TimeUp):
        for _ in left:
            pass


def _survivors(runner: Runner, job: Job, candidates: Iterator[Tensor]) -> Iterator[Tensor]:
    """Indices of the images that survive ``job``, after each batch that ``candidates`` fill, and after the rest."""
    waiting, numbers = torch.empty(0, dtype=torch.int64), count()
    for more in chain(candidates, [None]):
        waiting = waiting if more is None else torch.cat([waiting, more])
        while len(waiting) >= (1 if more is None else runner.batch_size):
            indices, waiting = waiting.tensor_split([runner.batch_size])
            runner.bar.set_postfix_str(job.name)
            if (stored := runner.stored(job, next(numbers), indices)) is None:
                raise _TimeUp
            yield indices[~stored[0]["broken"]]
