"""One thread for each test process: the same bits everywhere, and no fight for cores between the processes."""

import os
from collections.abc import Iterator

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

import pytest
import torch
from hypothesis import HealthCheck, settings

# A busy machine is slow: seconds are no property.
settings.register_profile("no deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no deadline")
torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``bf16`` are skipped where the processor emulates it."""
    if item.get_closest_marker("bf16"):
        from toolkit_ext.fast.formats import is_native

        if not is_native("cpu", torch.bfloat16):
            pytest.skip("no instructions for bf16 here")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Commands that tests run in their own process may take more threads; the next test has one again."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that tests run in their own process leave its allocator alone."""
    monkeypatch.setattr("toolkit_ext.fast.allocator.retain_freed", lambda: False)
