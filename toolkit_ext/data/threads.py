"""Work on the images of a data set by several threads; Pillow and the hashes let go of the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_TASK = 64  # images a thread works on before it asks for more: handing over costs as much as a tiny image
_WAITING = 8  # tasks whose results may wait at the same time


def in_threads(function: Callable[[int], T], count: int, threads: int) -> Iterator[T]:
    """``function(0)``, …, ``function(count - 1)`` in this order, computed by ``threads`` threads."""

    def work(rows: range) -> list[T]:
        return [function(row) for row in rows]

    tasks = [range(start, min(start + _TASK, count)) for start in range(0, count, _TASK)]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        ahead = _WAITING * max(1, threads)
        for start in range(0, len(tasks), ahead):
            for found in pool.map(work, tasks[start : start + ahead]):
                yield from found
