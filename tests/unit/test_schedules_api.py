"""Schedules: going on after a stop, and one line for bad input."""

from __future__ import annotations

import io
import itertools
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, Optimizer

from toolkit_ext.errors import UserError
from toolkit_ext.schedules import LR_SCHEDULES, SCHEDULES, LearningRate, Periodic, Warmup, lr_scheduler
from toolkit_ext.types import Schedule

OPTIONS: dict[str, Any] = {"steps_per_epoch": 3, "epochs": 4, "warmup_epochs": 1.0, "resets": (0, 1, 4)}


def make(name: str, kind: type[Optimizer] = SGD, **options: Any) -> tuple[Optimizer, LearningRate]:
    torch.manual_seed(0)
    optimizer = kind([torch.zeros(3, requires_grad=True)], lr=0.1)  # type: ignore[call-arg]
    return optimizer, lr_scheduler(optimizer, name, **(OPTIONS | options))


def advance(optimizer: Optimizer, scheduler: LearningRate, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("optimizer_first", [True, False])
@pytest.mark.parametrize("kind", [SGD, Adam])
@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_going_on_gives_the_same_bits(name: str, kind: type[Optimizer], optimizer_first: bool) -> None:
    whole = advance(*make(name, kind), 12)
    for stop in (1, 3, 7, 11):
        optimizer, scheduler = make(name, kind)
        begun = advance(optimizer, scheduler, stop)
        states = through_a_file((optimizer.state_dict(), scheduler.state_dict()))
        optimizer, scheduler = make(name, kind)
        pairs: list[tuple[Any, Any]] = [(optimizer, states[0]), (scheduler, states[1])]
        for part, state in pairs if optimizer_first else reversed(pairs):
            part.load_state_dict(state)
        assert scheduler.get_last_lr() == [optimizer.param_groups[0]["lr"]]
        assert begun + advance(optimizer, scheduler, 12 - stop) == whole


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_a_scheduler_made_after_the_optimiser_was_loaded_goes_on_too(name: str) -> None:
    whole = advance(*make(name), 12)
    optimizer, scheduler = make(name)
    begun = advance(optimizer, scheduler, 5)
    loaded = SGD([torch.zeros(3, requires_grad=True)], lr=0.1)
    loaded.load_state_dict(through_a_file(optimizer.state_dict()))
    resumed = lr_scheduler(loaded, name, **OPTIONS)
    resumed.load_state_dict(through_a_file(scheduler.state_dict()))
    assert begun + advance(loaded, resumed, 7) == whole


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_a_longer_training_follows_its_own_schedule_from_where_it_is(name: str) -> None:
    optimizer, scheduler = make(name)
    advance(optimizer, scheduler, 12)
    longer_optimizer, longer = make(name, epochs=8)
    longer.load_state_dict(scheduler.state_dict())
    reference = advance(*make(name, epochs=8), 24)
    # One-cycle has no batch after its last: it stays there, and goes on from there.
    done = 11 if name == "onecycle" else 12
    assert advance(longer_optimizer, longer, 5)[1:] == reference[done + 1 : done + 5]


@pytest.mark.parametrize("name", LR_SCHEDULES)
@pytest.mark.parametrize(("epochs", "steps"), list(itertools.product([1, 2, 3], [1, 2, 5])))
@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_the_shortest_trainings_work(name: str, epochs: int, steps: int, warmup: float) -> None:
    optimizer, scheduler = make(name, epochs=epochs, steps_per_epoch=steps, warmup_epochs=warmup, resets=None)
    found = advance(optimizer, scheduler, epochs * steps + 2)
    assert all(0 <= rate <= 0.1 + 1e-12 for rate in found)


def test_a_skipped_first_optimiser_step_is_no_warning() -> None:
    _, scheduler = make("cosine")
    scheduler.step()  # warnings are errors here
    assert scheduler.get_last_lr()[0] > 0


LR_BAD: list[tuple[str, dict[str, Any], str]] = [
    ("cosin", {}, "lr_schedule: 'cosin' is not known.*did you mean cosine"),
    ("cosine", {"epochs": 0}, "epochs: 0 is not allowed"),
    ("cosine", {"steps_per_epoch": 0}, "steps_per_epoch: 0 is not allowed"),
    ("constant", {"warmup_epochs": 5.0}, "warmup_epochs: 5.0 is longer than the training; at most 4"),
    ("constant", {"warmup_epochs": -1.0}, "warmup_epochs: -1.0 is not allowed"),
    ("multistep", {"milestones": (3, 2)}, "milestones: 3, 2 is not allowed"),
    ("multistep", {"milestones": (2, 4)}, "milestones: 2, 4 is not allowed"),
    ("multistep", {"milestones": (0,)}, "milestones: 0 is not allowed"),
    ("multistep", {"gamma": 0.0}, "gamma: 0.0 is not allowed"),
    ("cosine", {"min_lr": 0.2}, "min_lr: 0.2 is above the learning rate 0.1"),
    ("cosine", {"min_lr": -0.2}, "min_lr: -0.2 is not allowed"),
    ("periodic", {"resets": (0, 2, 2)}, "resets: 0, 2, 2 is not allowed; each must be greater"),
    ("periodic", {"resets": (0, 5)}, "resets: 0, 5 is not allowed; each must lie between 0 and the 4 epochs"),
]


@pytest.mark.parametrize(("name", "options", "message"), LR_BAD, ids=lambda case: str(case)[:30])
def test_bad_learning_rate_options_are_told(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make(name, **options)
    assert "\n" not in str(caught.value)


def test_the_lowest_rate_is_compared_with_that_of_the_start_not_of_the_moment() -> None:
    optimizer = SGD([{"params": [torch.zeros(3, requires_grad=True)], "initial_lr": 0.1, "lr": 0.0}])
    scheduler = lr_scheduler(optimizer, "cosine", **(OPTIONS | {"min_lr": 0.01}))
    assert min(advance(optimizer, scheduler, 12)[3:]) >= 0.01


EPS_BAD: list[tuple[type[Any], dict[str, Any], str]] = [
    (Warmup, {"eps_warmup_epochs": -1.0}, "eps_warmup_epochs: -1.0"),
    (Periodic, {"eps_min": 0.4, "eps_max": 0.3}, "eps_min: 0.4 is above eps_max 0.3"),
    (Periodic, {"eps_min": -0.1}, "eps_min: -0.1"),
    (Periodic, {"eps_max": float("inf")}, "eps_max: inf"),
    (Periodic, {"eps_shape": "sine"}, "eps_shape: 'sine' is not known.*cosine, linear"),
    (Periodic, {"eps_per": "step"}, "eps_per: 'step' is not known.*batch, epoch"),
    (Periodic, {"periods": 0}, "periods: 0"),
    (Periodic, {"reset_epochs": (0, 5, 5)}, "reset_epochs: 0, 5, 5 is not allowed; each must be greater"),
    (Periodic, {"reset_epochs": (-1, 5)}, "reset_epochs: -1, 5 is not allowed; each must lie"),
]


@pytest.mark.parametrize(("kind", "options", "message"), EPS_BAD, ids=lambda case: str(case)[:30])
def test_bad_epsilon_options_are_told(kind: type[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        kind(**options)
    assert "\n" not in str(caught.value)


def test_what_only_the_length_of_training_or_the_target_shows_is_told_then() -> None:
    with pytest.raises(UserError, match=r"reset_epochs: 0, 30 is not allowed; .* 0 and the 20 epochs"):
        Periodic(reset_epochs=(0, 30)).resets(20)
    with pytest.raises(UserError, match="periods: 5 is not allowed; it must be between 1 and the 4 epochs"):
        Periodic(periods=5).bind(4)
    with pytest.raises(UserError, match=r"eps_min: 0.2 is above eps_max 0.1"):
        Periodic(eps_min=0.2).bind(4).eps(0.0, 0.1)
    for unbound in (Periodic(), Periodic(reset_epochs=(5, 10))):
        with pytest.raises(UserError, match=r"call bind\(epochs\) first"):
            unbound.eps(0.0, 0.1)


def test_epsilons_are_read_as_users_write_them() -> None:
    schedule = Periodic(eps_min="2/255", eps_max="16/255")  # type: ignore[arg-type]
    assert (schedule.eps_min, schedule.eps_max) == (2 / 255, 16 / 255)


def test_resets_may_leave_out_both_ends() -> None:
    for given in ((3, 7), (0, 3, 7), (3, 7, 10), (0, 3, 7, 10)):
        assert Periodic(reset_epochs=given).resets(10) == (0, 3, 7, 10)
        assert Periodic(reset_epochs=given).bind(10).reset_epochs == (0, 3, 7, 10)
    assert Periodic(periods=3).resets(10) == (0, 3, 6, 10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_keeps_the_protocol_and_documents_its_options(name: str) -> None:
    schedule: Any = SCHEDULES[name]()
    bound: Schedule = schedule.bind(6)
    resets = bound.resets(6)
    assert resets[0] == 0
    assert resets[-1] == 6
    assert all(0 <= bound.eps(step / 4, 0.3) <= 0.3 for step in range(25))
    assert all(entry.metadata["help"] for entry in fields(schedule))
