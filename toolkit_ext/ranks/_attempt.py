"""A store of this attempt's own, for processes that torchrun started again."""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store

_KEY = "toolkit_ext/attempt"
_PAUSE = 0.02


def own_store(store: Store, rank: int, size: int, timeout: timedelta) -> Store:
    """``store`` under a name that the ``size`` processes of this attempt share, and no other attempt does.

    torchrun keeps one store over all restarts of a job, and torch does not tell the attempts apart in it: processes
    that are started again find the addresses that those before them left there, and connect to nobody. The count of
    restarts does not help: every machine keeps its own.

    So rank 0 draws a name, and tells it to each of the others under a word that this one drew. A word that an earlier
    attempt left may be answered too, but nobody waits for that; rank 0 goes on until all have said that they know.

    Raises:
        TimeoutError: not all have come within ``timeout``.
    """
    if rank > 0:
        return PrefixStore(_ask(store, rank, timeout), store)
    name = uuid.uuid4().hex
    missing, deadline = set(range(1, size)), time.monotonic() + timeout.total_seconds()
    while missing := {other for other in missing if not _answered(store, other, name)}:
        if time.monotonic() > deadline:
            raise TimeoutError(f"ranks {sorted(missing)} of {size} did not start within {timeout}")
        time.sleep(_PAUSE)
    return PrefixStore(name, store)


def _ask(store: Store, rank: int, timeout: timedelta) -> str:
    """Rank ``rank`` asks for the name and says that it has it."""
    word = uuid.uuid4().hex
    store.set(f"{_KEY}/word/{rank}", word)
    store.wait([f"{_KEY}/answer/{word}"], timeout)
    name = str(store.get(f"{_KEY}/answer/{word}").decode())
    store.set(f"{_KEY}/known/{name}/{rank}", "")
    return name


def _answered(store: Store, other: int, name: str) -> bool:
    """Rank 0 tells ``name`` to rank ``other``, as far as it has asked, and whether that one has it."""
    if store.check([f"{_KEY}/word/{other}"]):
        store.set(f"{_KEY}/answer/{store.get(f'{_KEY}/word/{other}').decode()}", name)
    return bool(store.check([f"{_KEY}/known/{name}/{other}"]))
