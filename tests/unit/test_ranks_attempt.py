"""Processes that are started again share a store of their own, whatever those before them left."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store

from toolkit_ext.ranks.launch import own_store

SHORT, LONG = timedelta(seconds=1), timedelta(seconds=20)


def attempt(store: Store, size: int) -> list[Store]:
    """The store of every rank of one attempt, all at once."""
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: own_store(store, rank, size, LONG), range(size)))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_ranks_of_an_attempt_share_what_no_other_attempt_sees(size: int) -> None:
    shared = HashStore()
    for number in range(3):
        stores = attempt(shared, size)
        assert not any(store.check(["address"]) for store in stores)  # of the attempt before
        stores[0].set("address", str(number))
        assert [store.get("address") for store in stores] == [str(number).encode()] * size


def test_an_attempt_after_one_that_not_all_have_reached() -> None:
    shared = HashStore()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(own_store, shared, 1, 3, LONG)
        shared.wait(["toolkit_ext/attempt/word/1"], LONG)
        with pytest.raises(TimeoutError, match=r"ranks \[2\] of 3 did not start"):
            own_store(shared, 0, 3, SHORT)
        asked.result()
    first, *others = attempt(shared, 3)
    first.set("address", "here")
    assert [store.get("address") for store in others] == [b"here"] * 2
