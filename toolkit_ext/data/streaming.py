"""Batches decoded ahead of their use by the workers of a torch ``DataLoader``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from toolkit_ext.errors import RunError
from toolkit_ext.random_state import preserved_generators

Plan = list[int]
"""A batch to read: a seed for what is random in it, and rows."""


class Reader(Protocol):
    """What reads single images; it is sent to the workers, so it must pickle."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape ``[C, H, W]`` of an image."""

    @property
    def digest(self) -> str:
        """Digest of what all images are made of; empty if it is not known."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, row: int, seed: int) -> Tensor | Exception:
        """Image ``[C, H, W]`` number ``row``, or what is wrong with it."""


class _Batches(Dataset[Any]):
    """A reader as torch's ``DataLoader`` wants it: a whole batch at once."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __getitems__(self, plan: Plan) -> Tensor | Exception:
        seed, *rows = plan
        images = []
        for row in rows:
            image = self.reader.read(row, seed)
            if isinstance(image, Exception):
                return image
            images.append(image)
        return torch.stack(images)


class _Plans:
    """The batches of the iteration that begins next; persistent workers outlive it."""

    def __init__(self) -> None:
        self.plans: Iterable[Plan] = ()

    def __iter__(self) -> Iterator[Plan]:
        return iter(self.plans)


def _same(batch: Any) -> Any:
    return batch


class Stream:
    """Reads batches of ``reader`` in the order asked for, some of them ahead.

    Args:
        reader: What reads an image.
        workers: Number of processes; 0 reads in this one.
        pinned: Whether batches are put into page-locked memory, for a GPU.
    """

    def __init__(self, reader: Reader, workers: int, *, pinned: bool = False) -> None:
        self.reader, self.workers, self.pinned = reader, workers, pinned
        self._plans = _Plans()
        self._loader: DataLoader[Any] | None = None
        self._turn = 0

    def batches(self, plans: Iterable[Plan]) -> Iterator[Tensor]:
        """The images ``[M, C, H, W]`` of each plan. A new call ends the one before.

        Raises:
            UserError: an image cannot be read.
            RunError: a worker died.
        """
        self._turn += 1
        turn = self._turn
        for batch in self._iterate(plans):
            if isinstance(batch, Exception):
                raise batch
            yield batch
            if turn != self._turn:
                raise RuntimeError("stream: two iterations at the same time")

    def _iterate(self, plans: Iterable[Plan]) -> Iterator[Any]:
        self._plans.plans = plans
        if self._loader is None:
            self._loader = self._make_loader()
        try:
            yield from self._loader
        except RuntimeError as error:
            if "worker" not in str(error):
                raise
            self._loader = None
            facts = " ".join(str(error).split())[:160]
            raise RunError(f"data: a process that reads images died ({facts}); try fewer --workers") from error

    def _make_loader(self) -> DataLoader[Any]:
        several: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": 2} if self.workers else {}
        return DataLoader(
            _Batches(self.reader),
            batch_sampler=self._plans,  # type: ignore[arg-type]  # it needs no length
            num_workers=self.workers,
            collate_fn=_same,
            pin_memory=self.pinned,
            generator=torch.Generator(),  # or starting an iteration would draw from the caller's generator
            **several,
        )

    def close(self) -> None:
        """End the workers; a later iteration starts new ones."""
        self._turn += 1
        self._loader = None


@contextmanager
def seeded_item(seed: int, row: int) -> Iterator[None]:
    """What is random while item ``row`` is made depends on ``seed`` and ``row`` alone; the generators are restored."""
    drawn = int(np.random.SeedSequence((seed, row)).generate_state(1)[0])
    with preserved_generators(drawn), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(drawn)  # not torch.manual_seed, which seeds every GPU too
        yield
