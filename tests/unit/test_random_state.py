"""Random generators are given back as they were, whatever was drawn between."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from torch import nn

from toolkit_ext.attacks import PGD
from toolkit_ext.data.streaming import seeded_item
from toolkit_ext.landscape.adversarial_loss import adversarial_examples, seeded
from toolkit_ext.random_state import generator_states, preserved_generators, restore_generators
from toolkit_ext.trainers.batches import isolated_rng

Drawn = tuple[float, float, float]
SEEDING: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "libraries": lambda: preserved_generators(2**32 + 5),
    "an item": lambda: seeded_item(3, 4),
    "an epoch": lambda: isolated_rng(7),
    "a landscape": lambda: seeded(7, torch.device("cpu")),
}


def draw() -> Drawn:
    return np.random.rand(), random.random(), torch.rand(()).item()


def test_states_bring_back_what_was_drawn() -> None:
    states = generator_states()
    normal = np.random.randn()  # of two that NumPy makes at once, the second waits in the state
    drawn = draw()
    restore_generators(states)
    assert (np.random.randn(), draw()) == (normal, drawn)


@pytest.mark.parametrize("where", SEEDING)
def test_seeded_numbers_repeat_and_the_callers_go_on(where: str) -> None:
    states = generator_states()
    expected = draw()
    restore_generators(states)
    found: list[Drawn] = []

    def work() -> None:
        with SEEDING[where]():
            found.append(draw())
            raise RuntimeError("stop")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="stop"):
            work()
    assert found[0][:2] == found[1][:2]
    if where == "libraries":  # torch's are the caller's
        assert draw()[:2] == expected[:2]
    else:
        assert draw() == expected


def test_without_a_seed_the_callers_numbers_are_drawn() -> None:
    states = generator_states()
    expected = draw()
    restore_generators(states)
    with preserved_generators():
        assert draw() == expected
    restore_generators({**states, "torch": torch.get_rng_state()})
    assert draw()[:2] == expected[:2]


def test_a_seed_fixes_random_starts_that_come_from_numpy() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x, y = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    attack = PGD(eps=2.0, norm="L1", steps=1, backend="art")
    first, second, other = (adversarial_examples(model, attack, x, y, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
