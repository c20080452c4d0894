"""Batches computed in parts: the step of the whole batch, for every update and objective, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parent / "extensions"))

from tiny import OPTIONS, X, Y, classifier, fitted  # type: ignore[import-not-found]
from universal import UniversalRule  # type: ignore[import-not-found]

from toolkit_ext import backbones
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.objectives import OBJECTIVES
from toolkit_ext.ranks import ALONE
from toolkit_ext.trainers import TRAINERS, MethodTrainer, PGDTrainer, as_classifier
from toolkit_ext.trainers.accumulation import Accumulation
from toolkit_ext.trainers.distributed import DataParallelContext
from toolkit_ext.types import AdversarialInputs, Batch, TotalOnly
from toolkit_ext.updates import UPDATES

N = 20
RNG = torch.Generator().manual_seed(0)
INPUTS = torch.rand(N, 1, 8, 8, generator=RNG, dtype=torch.float64)
NEAR = (INPUTS + 0.1 * torch.rand(N, 1, 8, 8, generator=RNG, dtype=torch.float64)).clamp(0, 1)
LABELS = torch.arange(N) % 3


def lenet() -> nn.Module:
    torch.manual_seed(0)
    return backbones.create("lenet", num_classes=3, in_chans=1, image_size=8, width=2)


def vit() -> nn.Module:
    torch.manual_seed(0)
    size: dict[str, Any] = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    return backbones.create("vit_tiny_patch16_224", num_classes=3, in_chans=1, image_size=8, **size)


def stepped(make: Callable[[], nn.Module], rule: str, objective: str, accumulate: int) -> tuple[Tensor, Any]:
    """The weights after two steps in double precision, and the report of the second."""
    model = make().double().train()
    update = UPDATES[rule]().bind(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    parallel = DataParallelContext(ALONE, model)
    accumulation = Accumulation(accumulate, N, parallel, update, None)  # type: ignore[arg-type]
    batch, terms = Batch(INPUTS, LABELS, AdversarialInputs(NEAR)), OBJECTIVES[objective]()
    compute = lambda part: terms(model, part, nn.functional.cross_entropy)  # noqa: E731
    for _ in range(2):
        report = update.step(lambda: accumulation.losses(batch, compute))
    return nn.utils.parameters_to_vector(model.parameters()).detach(), report


# Those that need a run or an update of their own are trained below; the nuclear norm is one of the whole batch.
ALONE_HERE = {"free", "nuat", "hat", "lbgat", "ikl"}
PAIRS = [(rule, "trades") for rule in sorted(UPDATES.keys() - ALONE_HERE)]
PAIRS += [("plain", name) for name in sorted(OBJECTIVES.keys() - ALONE_HERE - {"trades"})]
PAIRS += [("dual", "clean_adversarial"), ("awp", "mart"), ("amp", "gradient_penalty")]


@pytest.mark.parametrize(("make", "rule", "objective"), [*((lenet, *pair) for pair in PAIRS), (vit, "dual", "trades")])
def test_equal_to_the_whole_batch(make: Callable[[], nn.Module], rule: str, objective: str) -> None:
    whole, told = stepped(make, rule, objective, 1)
    start = nn.utils.parameters_to_vector(make().double().parameters()).detach()
    assert (whole - start).abs().max() > 1e-3
    for accumulate in (3, N):
        parts, report = stepped(make, rule, objective, accumulate)
        assert (parts - whole).abs().max() < 1e-6
        for ours, theirs in ((report.losses, told.losses), (report.figures, told.figures)):
            assert {name: float(value) for name, value in ours.items()} == pytest.approx(
                {name: float(value) for name, value in theirs.items()}, abs=1e-6
            )


def trained(method: str, accumulate: int, **options: Any) -> tuple[MethodTrainer, list[int]]:
    """A trainer after an epoch on 50 images in batches of 20, and the sizes of all batches that its model got."""
    sizes: list[int] = []
    trainer = TRAINERS[method](
        as_classifier(lenet(), (1, 8, 8), 3), lr=0.02, accumulate=accumulate, validation_fraction=0, measure_every=0,
        **options,
    )  # fmt: skip
    x, y = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 3
    with torch.no_grad():
        x[torch.arange(50), 0, y, y] = 1
    hook = trainer.model.register_forward_hook(lambda module, given, logits: sizes.append(len(logits)))
    trainer.fit(x, y, batch_size=20, nb_epochs=1, progress=False)
    hook.remove()
    return trainer, sizes


METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "random starts": ("pgd", {"eps": 0.1, "steps": 2, "augment": "crop-flip", "clip_grad": 0.5}),
    "mixed images": ("pgd", {"eps": 0.1, "steps": 2, "mixup": 0.4, "cutmix": 1.0}),
    "L2": ("pgd", {"eps": 0.5, "steps": 2, "norm": "L2"}),
    "several attacks": ("multi_attack", {"eps": 0.1, "steps": 1}),
    "hidden layers": ("deep", {"deep_steps": 1}),
    "two optimisers": ("dual", {"eps": 0.1, "steps": 1, "warmup_epochs": 0.0}),
    "inputs that move": ("pgd", {"eps": 0.1, "update": UniversalRule()}),
    "free": ("free", {"eps": 0.1, "free_replays": 2}),
    "memory and its start": ("fgsm_pgi", {"eps": 0.1}),
    "start without memory": ("n_fgsm", {"eps": 0.1, "objective": "fgsm_pgi"}),
    "second network": ("pgd", {"eps": 0.1, "steps": 1, "objective": "hat"}),
}


# An attack with a memory, and the step of a second network (whose copied hook counts too), see the whole batch.
WHOLE = {"memory and its start", "second network"}


@pytest.mark.parametrize("case", METHODS)
def test_a_training_in_parts_is_that_of_the_whole_batches(case: str) -> None:
    method, options = METHODS[case]
    (whole, _), (parts, sizes) = (trained(method, accumulate, **options) for accumulate in (1, 3))
    ours, theirs = whole.model.state_dict(), parts.model.state_dict()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-5
    assert max(sizes) == (20 if case in WHOLE else 7)  # never more in memory
    losses = [{name: value for name, value in one.history[0].items() if "loss" in name} for one in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize(("accumulate", "batch"), [(1, 7), (2, 7), (3, 20), (4, 8), (8, 8), (5, 11)])
def test_parts_cover_every_batch(accumulate: int, batch: int) -> None:
    model = nn.Linear(1, 1)
    accumulation = Accumulation(accumulate, batch, DataParallelContext(ALONE, model), None, None)  # type: ignore[arg-type]
    for n in range(1, batch + 1):
        rows = [list(range(n))[part] for part in accumulation.rows(n)]
        assert [row for part in rows for row in part] == list(range(n))
        largest = -(-batch // accumulate)
        # Three are not split into two and one: batch norm has no statistics of one example.
        assert min(map(len, rows)) > 1 or n == 1 or largest == 1
        assert max(map(len, rows)) <= max(largest, 3)


def test_batch_norm_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    fitted(classifier(), accumulate=2)
    assert (
        "accumulate: batch norm sees 4 images at a time, so steps differ from those of the whole batch" in caplog.text
    )
    caplog.clear()
    trained("pgd", 2, eps=0.1, steps=1)
    assert "batch norm" not in caplog.text


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({"accumulate": 0}, "accumulate: 0 is not allowed; it must be an integer at least 1"),
    "half": ({"accumulate": 2, "precision": "fp16-mixed"}, "accumulate: is not allowed with precision fp16-mixed"),
    "shards": ({"accumulate": 2, "sharding": "fsdp"}, "accumulate: is not allowed with sharding fsdp"),
    "many": ({"accumulate": 9}, "accumulate: 9 is not allowed with batch_size 8; at most 8"),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused(case: str) -> None:
    options, message = WRONG[case]
    with pytest.raises(UserError) as caught:
        fitted(classifier(), **options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["lbgat", "ikl"])
def test_refused_where_an_objective_learns_from_the_whole_batch(method: str) -> None:
    with pytest.raises(UserError, match="accumulate: is not allowed with an objective that learns from the whole"):
        trained(method, 2, eps=0.1, steps=1)


def test_refused_where_layers_and_inputs_move() -> None:
    with pytest.raises(UserError, match=r"^accumulate: is not allowed with Deep and Free; use 1$"):
        trained("deep", 2, update="free")


def test_the_identity_has_it_where_it_is_given(tmp_path: Path) -> None:
    plain = Experiment("pgd")
    assert plain.run_id == Experiment("pgd", hyper_parameters={"accumulate": 1}).run_id
    assert plain.run_id != Experiment("pgd", hyper_parameters={"accumulate": 2}).run_id
    assert "accumulate" not in PGDTrainer(classifier(), **OPTIONS).axes.hyper_parameters()
    fitted(classifier(), run_dir=tmp_path)
    trainer = PGDTrainer(classifier(), lr=0.05, accumulate=2, **OPTIONS)
    with pytest.raises(UserError, match=r"accumulate \(1 there, 2 here\)"):
        trainer.fit(X, Y, batch_size=8, nb_epochs=1, progress=False, run_dir=tmp_path, resume=True)


def test_which_updates_need_the_total_alone() -> None:
    model = lenet()
    bound = {name: rule().bind(model, torch.optim.SGD(model.parameters(), lr=0.1)) for name, rule in UPDATES.items()}
    assert {name for name, update in bound.items() if not isinstance(update, TotalOnly)} == {"dual"}
