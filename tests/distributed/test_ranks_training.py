"""Two gloo ranks train as one process does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import (  # type: ignore[import-not-found]
    BATCH,
    EXAMPLES,
    FREE,
    FURTHER,
    LINF,
    METHODS,
    MIXED,
    ONE,
    ONE_STEP,
    SHARDED,
    SHORT,
    digits,
    fitted,
    lenet,
    net_with_batch_norm,
    streamed,
    trainer_of,
    vit,
    weights_of,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from toolkit_ext import backbones
from toolkit_ext.data import split_validation, to_unit
from toolkit_ext.trainers.batches import ImageSource, seed_of
from toolkit_ext.trainers.fsdp import can_shard

Found = list[dict[str, Any]]
STEPS = 2 * 3  # two epochs of 105 examples in batches of 41


def difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)


def moved(weights: Mapping[str, Tensor]) -> float:
    return difference(weights, lenet().state_dict())


@pytest.mark.parametrize("name", METHODS)
def test_weights_equal_those_of_one_process(name: str, ranks: Found) -> None:
    alone = fitted(*METHODS[name])
    first, second = (found["methods"][name] for found in ranks)
    assert difference(first["weights"], second["weights"]) == 0
    assert difference(weights_of(alone), first["weights"]) < 1e-5
    assert moved(first["weights"]) > 1e-3  # by far more than the bound
    assert first["history"] == second["history"]
    for row, other in zip(alone.history, first["history"], strict=True):
        timeless = {key: value for key, value in row.items() if key != "seconds"}
        assert {key: other[key] for key in timeless} == pytest.approx(timeless, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", ONE_STEP)
def test_a_step_equals_that_of_one_process(name: str, ranks: Found) -> None:
    found = ranks[0]["one step"][name]
    assert difference(weights_of(fitted(*ONE_STEP[name], **ONE)), found["weights"]) < 1e-5
    assert moved(found["weights"]) > 1e-3
    assert found["sums"] == 1


@pytest.mark.parametrize("name", METHODS)
def test_a_step_has_one_exchange(name: str, ranks: Found) -> None:
    expected = STEPS * (1 + FURTHER.get(name, 0))
    assert [found["methods"][name]["sums"] for found in ranks] == [expected, expected]


def test_state_for_examples_is_shared(ranks: Found) -> None:
    first, second = (found["free"]["weights"] for found in ranks)
    assert difference(first, second) == 0
    assert difference(weights_of(fitted(*FREE)), first) < 1e-5
    assert moved(first) > 1e-3


def local_amp(epsilon: float = 0.5, inner_lr: float = 1.0) -> dict[str, Tensor]:
    """An epoch of AMP written out: every part of a batch perturbs the weights by its own gradient (m-sharpness)."""
    trainer = trainer_of("amp", SHORT)
    images, labels = digits()
    kept, _ = split_validation(images, labels, 0.1, 0)
    model = trainer.model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.02, momentum=0.9, weight_decay=5e-4)
    source = ImageSource(images[kept], labels[kept], BATCH)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(source))
    for x, y, _ in source.epoch(seed_of(0, 1, 0)):
        total = [torch.zeros_like(weight) for weight in weights]
        for part in (slice(0, len(x) // 2), slice(len(x) // 2, len(x))):
            grads = torch.autograd.grad(nn.functional.cross_entropy(model(x[part]), y[part]), weights)
            norm = torch.cat([g.flatten() for g in grads]).norm() * inner_lr
            delta = [g * inner_lr * min(1.0, epsilon / float(norm)) for g in grads]
            with torch.no_grad():
                torch._foreach_add_(weights, delta)
            grads = torch.autograd.grad(nn.functional.cross_entropy(model(x[part]), y[part]), weights)
            with torch.no_grad():
                torch._foreach_sub_(weights, delta)
            share = (part.stop - part.start) / len(x)
            total = [t + share * g for t, g in zip(total, grads, strict=True)]
        for weight, grad in zip(weights, total, strict=True):
            weight.grad = grad
        optimizer.step()
        rates.step()
    found: dict[str, Tensor] = weights_of(trainer)
    return found


def test_by_default_amp_perturbs_by_the_part_of_each_rank(ranks: Found) -> None:
    found = ranks[0]["amp of the rank"]
    assert found["sums"] == 3  # one exchange in each of the three steps
    assert difference(local_amp(), found["weights"]) < 1e-5
    whole = weights_of(fitted("amp", SHORT, nb_epochs=1))
    assert difference(whole, found["weights"]) > 1e-4  # not what one process does


def test_running_statistics_are_those_of_the_whole_batch(ranks: Found) -> None:
    first, second = (found["batch norm"]["weights"] for found in ranks)
    assert difference(first, second) == 0
    alone = weights_of(fitted("standard", {**SHORT, "lr": 1e-9}, net_with_batch_norm(), batch_size=105))
    # The mean of the means of the parts is the mean; of the variances only nearly so.
    torch.testing.assert_close(first["1.running_mean"], alone["1.running_mean"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(first["1.running_var"], alone["1.running_var"], rtol=0.02, atol=0)


def test_batches_of_a_loader_are_shared_too(ranks: Found) -> None:
    alone = trainer_of("pgd", LINF)
    alone.fit_generator(DataLoader(TensorDataset(*digits()), batch_size=23, shuffle=True), nb_epochs=2, progress=False)
    assert difference(weights_of(alone), ranks[0]["loader"]["weights"]) < 1e-5


def test_each_rank_reads_its_own_part_of_a_stream(ranks: Found) -> None:
    alone, whole = streamed()
    first, second = (found["streamed"] for found in ranks)
    assert not first["reads"] & second["reads"]
    assert first["reads"] | second["reads"] == whole
    assert abs(len(first["reads"]) - len(second["reads"])) <= STEPS  # one in each batch of an odd size
    assert difference(first["weights"], second["weights"]) == 0
    assert difference(weights_of(alone), first["weights"]) < 1e-5
    assert first["history"][-1]["val_clean_acc"] == alone.history[-1]["val_clean_acc"]


def test_images_that_are_mixed_are_read_by_every_rank_that_needs_them(ranks: Found) -> None:
    alone, whole = streamed(**MIXED)
    first, second = (found["streamed and mixed"] for found in ranks)
    assert first["reads"] == second["reads"] == whole
    assert difference(first["weights"], second["weights"]) == 0
    assert difference(weights_of(alone), first["weights"]) < 1e-5


@pytest.fixture(scope="session")
def three_epochs() -> dict[str, Tensor]:
    found: dict[str, Tensor] = weights_of(fitted("pgd", LINF, nb_epochs=3))
    return found


def test_two_ranks_go_on_from_one_process(ranks: Found, three_epochs: dict[str, Tensor]) -> None:
    for found in ranks:
        assert difference(three_epochs, found["resumed"]["weights"]) < 1e-5
        assert len(found["resumed"]["history"]) == 3


def test_one_process_goes_on_from_two_ranks(
    ranks: Found, folder: Path, three_epochs: dict[str, Tensor], tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(folder / "whole-0", tmp_path / "run")
    rest = fitted("pgd", LINF, nb_epochs=3, run_dir=tmp_path / "run", resume=True)
    assert len(rest.history) == 3
    assert difference(three_epochs, weights_of(rest)) < 1e-5


def test_only_the_first_rank_writes(ranks: Found, folder: Path) -> None:
    assert {path.name for path in (folder / "whole-0").iterdir()} >= {"last", "best", "log.csv"}
    assert not (folder / "whole-1").exists()
    assert [found["resumed"]["again"].split(":")[0] for found in ranks] == ["SharedError"] * 2
    assert all("eps (0.1 there, 0.2 here)" in found["resumed"]["other"] for found in ranks)


CAN_SHARD = can_shard(torch.device("cpu"))
SHARDS = pytest.mark.skipif(not CAN_SHARD, reason="this torch cannot shard weights on the CPU")


@pytest.mark.slow
@pytest.mark.skipif(CAN_SHARD, reason="this torch can shard weights on the CPU")
def test_a_torch_that_cannot_shard_on_the_cpu_is_refused(sharded_ranks: Found) -> None:
    for found in sharded_ranks:
        assert found["fsdp"].startswith("UserError: sharding: fsdp is not possible on the CPU with torch 2.")


@pytest.mark.slow
@SHARDS
@pytest.mark.parametrize("name", SHARDED)
def test_sharded_weights_equal_those_of_one_process(name: str, sharded_ranks: Found) -> None:
    alone = weights_of(fitted(*SHARDED[name], vit(), nb_epochs=1))
    for found in sharded_ranks:
        assert difference(alone, found["fsdp"][name]) < 1e-4
    assert difference(alone, vit().state_dict()) > 1e-3


@pytest.mark.slow
@SHARDS
def test_a_sharded_run_goes_on_and_keeps_whole_checkpoints(sharded_ranks: Found, sharded_folder: Path) -> None:
    alone = fitted("pgd", {**LINF, "optimizer": "adamw", "lr": 1e-3}, vit(), nb_epochs=3)
    assert difference(weights_of(alone), sharded_ranks[0]["fsdp"]["resumed"]) < 1e-4
    assert difference(alone.best_state_dict, sharded_ranks[1]["fsdp"]["best"]) < 1e-4
    kept = backbones.load_model(sharded_folder / "sharded" / "last")
    assert difference(kept.state_dict(), sharded_ranks[0]["fsdp"]["resumed"]) == 0
    x, _ = digits(4)
    with torch.no_grad():
        assert kept(to_unit(x)).shape == (4, 10)


def test_the_cases_have_uneven_parts() -> None:
    held = round(0.1 * EXAMPLES)
    sizes = [BATCH, BATCH, EXAMPLES - held - 2 * BATCH]
    assert all(size % 2 for size in sizes)
