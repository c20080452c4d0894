"""The first steps of every method are what they were; see golden_losses.py for what to do if that was intended."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest
import torch
from golden_losses import FILE, STEPS, first_losses  # type: ignore[import-not-found]

from toolkit_ext.trainers import TRAINERS

GOLDEN: dict[str, dict[str, list[float]]] = json.loads(FILE.read_text())


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check(method: str) -> None:
    found = first_losses(method)
    assert found.keys() == GOLDEN[method].keys()
    for term, values in GOLDEN[method].items():
        assert len(values) == STEPS
        assert all(math.isfinite(value) for value in values)
        torch.testing.assert_close(torch.tensor(found[term]), torch.tensor(values), rtol=1e-4, atol=1e-4)


def test_every_method_has_golden_losses() -> None:
    assert GOLDEN.keys() == TRAINERS.keys(), "run: python tests/golden/golden_losses.py"


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("method", GOLDEN)
def test_the_first_steps_are_what_they_were(method: str) -> None:
    check(method)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("method", GOLDEN)
def test_threads_make_no_difference(method: str) -> None:
    torch.set_num_threads(2)
    check(method)
