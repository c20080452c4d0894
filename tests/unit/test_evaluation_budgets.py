"""Several radii in one run: what is broken stays broken, and nothing is attacked twice."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Budget, Evaluation, Protocol, evaluate, evaluate_budgets, load_examples
from toolkit_ext.evaluation.running.recheck import distance, recheck, tolerance

SHORT = Budget(n_iter=3, n_queries=12)
ATTACKS = ("clean", "fgsm", "pgd20", "pgd_l2", "apgd_ce", "aa")
PROTOCOL = Protocol("test", "Linf", 0.5, attacks=ATTACKS, l2_eps=0.3)
RADII: tuple[str | float, ...] = ("16/255", 0.02, 0.12)
N = 16


pytestmark = pytest.mark.usefixtures("rechecks_do_not_count")


class StopError(KeyboardInterrupt):
    """Stands for whatever ends a process."""


class Watched(nn.Module):
    """A classifier that notes which of the clean images each image it sees was made from."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))
        self.clean, self.seen, self.calls, self.stop = torch.zeros(0), torch.zeros(N, dtype=torch.int64), 0, -1

    def forward(self, x: Tensor) -> Tensor:
        if self.calls == self.stop:
            raise StopError
        self.calls += 1
        if len(self.clean):
            apart = (x.detach()[:, None] - self.clean).flatten(2).abs().amax(dim=2)
            self.seen += torch.bincount(apart.argmin(dim=1), minlength=N)
        logits: Tensor = self.body(x)
        return logits


def case() -> tuple[Watched, Tensor, Tensor]:
    torch.manual_seed(0)
    model, x = Watched(), torch.rand(N, 1, 8, 8)
    y = model(x).argmax(dim=1)
    y[:2] = (y[:2] + 1) % 4
    return model, x, y


OPTIONS: dict[str, Any] = {"batch_size": 5, "budget": SHORT, "progress": False}


@cache
def run(**options: Any) -> tuple[Evaluation, ...]:
    return evaluate_budgets(*case(), PROTOCOL, RADII, **(OPTIONS | options))


def facts(evaluation: Evaluation) -> dict[str, Any]:
    record = evaluation.to_record()
    for row in record["details"]["attacks"].values():
        del row["seconds"]
    return record


def test_one_evaluation_for_each_radius_in_growing_order() -> None:
    curve = run()
    assert [found.protocol.name for found in curve] == ["test@0.02", "test@16_255", "test@0.12"]
    assert [found.protocol.eps for found in curve] == [0.02, 16 / 255, 0.12]
    for column in (*ATTACKS, "union"):
        falling = [found.metrics[f"{column}_acc"] for found in curve]
        assert falling == sorted(falling, reverse=True)
    assert curve[0].metrics["aa_acc"] > curve[1].metrics["aa_acc"] > curve[2].metrics["aa_acc"]
    assert {found.metrics["clean_acc"] for found in curve} == {14 / 16}


def test_the_smallest_radius_is_evaluated_as_it_is_alone() -> None:
    first = run()[0]
    alone = evaluate(*case(), PROTOCOL.at(eps=0.02), **OPTIONS)
    assert facts(first) == facts(alone)
    assert "carried" not in first.to_record()["details"]


def test_what_is_broken_is_not_attacked_again() -> None:
    model, x, y = case()
    first = evaluate(model, x, y, PROTOCOL.at(eps=0.12), **OPTIONS)
    model.clean = x
    grown = ("fgsm", "pgd20", "apgd_ce", "aa")
    gone = torch.stack([~first.robust[column] for column in grown]).all(dim=0)
    assert int(gone.sum()) > 2
    second = evaluate(model, x, y, PROTOCOL.at(eps=0.15), carry=first, **OPTIONS)
    # One look at the first image is how every evaluation begins.
    assert model.seen[gone].tolist() == [1] + [0] * (int(gone.sum()) - 1)
    left = first.robust["fgsm"] & first.robust["pgd20"] & first.robust["apgd_ce"] & first.robust["aa"]
    assert (model.seen[left] > 20).all()
    for column in ("fgsm", "pgd20", "aa"):
        assert second.details[column]["attempted"] == int(first.robust[column].sum())
        assert second.carried[column] == int((first.robust["clean"] & ~first.robust[column]).sum())
    assert second.to_record()["details"]["carried"] == second.carried


def test_a_column_whose_ball_has_not_grown_is_not_run_again() -> None:
    first, *others = run()
    for found in others:
        assert torch.equal(found.robust["pgd_l2"], first.robust["pgd_l2"])
        assert found.details["pgd_l2"]["attempted"] == 0


def test_columns_depend_neither_on_one_another_nor_on_autoattack() -> None:
    together = run(batch_size=100)
    for column in ("fgsm", "aa"):
        alone = evaluate_budgets(*case(), PROTOCOL.at(attacks=(column,)), RADII, **(OPTIONS | {"batch_size": 100}))
        for one, other in zip(together, alone, strict=True):
            assert torch.equal(one.robust[column], other.robust[column])


def test_apgd_attacks_what_autoattack_left_out() -> None:
    """What FAB or Square broke at a smaller radius AutoAttack skips, but the column of APGD alone must not."""
    model, x, y = case()
    protocol = PROTOCOL.at(attacks=("apgd_ce", "aa"))
    first = evaluate(model, x, y, protocol.at(eps=0.03), **OPTIONS)
    skipped = first.robust["aa"].nonzero().flatten()[:4]
    aa = first.robust["aa"].clone()
    aa[skipped] = False
    carry = replace(first, robust=first.robust | {"aa": aa})
    found = evaluate(model, x, y, protocol.at(eps=0.12), carry=carry, **OPTIONS)
    assert found.details["aa/apgd-ce"]["attempted"] == int(aa.sum())
    assert found.details["apgd_ce"]["attempted"] == int(first.robust["apgd_ce"].sum())
    assert found.details["apgd_ce"]["broken"] == int((first.robust["apgd_ce"] & ~found.robust["apgd_ce"]).sum())
    usual = evaluate(model, x, y, protocol.at(eps=0.12), carry=first, **OPTIONS)
    assert torch.equal(found.robust["apgd_ce"], usual.robust["apgd_ce"])


def test_carried_examples_are_adversarial_in_the_larger_ball(tmp_path: Path) -> None:
    curve, (model, x, y) = run(save_examples=tmp_path / "examples.safetensors"), case()
    for found, end in zip(curve, ("0.02", "16_255", "0.12"), strict=True):
        examples = load_examples(tmp_path / f"examples@{end}.safetensors")
        assert examples.indices.tolist() == (~found.robust["union"]).nonzero().flatten().tolist()
        for position, name in enumerate(examples.attacks):
            norm, eps = examples.balls[name]
            index, inputs = examples.indices[[position]], examples.inputs[[position]]
            assert float(distance(x[index], inputs, norm)) <= eps + tolerance(norm, eps)
            assert recheck(model, x[index], inputs, y[index], norm, eps)[0].all()
    before, after = curve[1].examples, curve[2].examples
    kept = torch.isin(after.indices, before.indices)
    assert torch.equal(after.inputs[kept], before.inputs)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_an_interrupted_curve_goes_on(share: float, tmp_path: Path) -> None:
    model, x, y = case()
    quick = PROTOCOL.at(attacks=("fgsm", "pgd20", "pgd_l2"))
    model.calls = 0
    whole = evaluate_budgets(model, x, y, quick, RADII, **OPTIONS)
    total, model.calls = model.calls, 0
    model.stop = int(total * share)
    with pytest.raises(StopError):
        evaluate_budgets(model, x, y, quick, RADII, state_dir=tmp_path, **OPTIONS)
    model.stop, model.calls = -1, 0
    again = evaluate_budgets(model, x, y, quick, RADII, state_dir=tmp_path, **OPTIONS)
    assert [facts(one) for one in again] == [facts(one) for one in whole]
    # At most the one batch that was not finished is attacked again, and each radius begins with a look at one image.
    assert model.calls <= total - int(total * share) + 25 + 3
    model.calls = 0
    evaluate_budgets(model, x, y, quick, RADII, state_dir=tmp_path, **OPTIONS)
    assert model.calls == 3


def test_a_state_folder_of_another_curve_is_refused(tmp_path: Path) -> None:
    model, x, y = case()
    short = PROTOCOL.at(attacks=("fgsm",))
    evaluate_budgets(model, x, y, short, (0.03, 0.06), state_dir=tmp_path, **OPTIONS)
    with pytest.raises(UserError, match="differing in carried"):
        evaluate_budgets(model, x, y, short, (0.015, 0.03, 0.06), state_dir=tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        ((), "eps: no radius is given"),
        (("8/255", 8 / 255), "eps: 0.0313725 is given twice"),
        (("8", "16"), "did you mean 8/255"),
        (("0.1", "-1"), "eps: -1 is not allowed"),
        (("0.1", "x"), "eps: 'x' is not a number"),
    ],
)
def test_radii_that_are_refused(eps: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        evaluate_budgets(*case(), PROTOCOL, eps, **OPTIONS)
    assert "\n" not in str(error.value)


def test_going_on_from_something_else_is_refused() -> None:
    model, x, y = case()
    short = PROTOCOL.at(attacks=("fgsm",))
    first = evaluate(model, x, y, short.at(eps=0.03), **OPTIONS)
    with pytest.raises(UserError, match=r"carry: its eps 0.03 is not allowed; it must be below 0.03"):
        evaluate(model, x, y, short.at(eps=0.03), carry=first, **OPTIONS)
    with pytest.raises(UserError, match=r"carry: is of another evaluation, differing in attacks"):
        evaluate(model, x, y, PROTOCOL.at(eps=0.06), carry=first, **OPTIONS)
    with pytest.raises(UserError, match="differing in data_sha256"):
        evaluate(model, x[1:], y[1:], short.at(eps=0.06), carry=first, **OPTIONS)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    with pytest.raises(UserError, match="differing in model_sha256"):
        evaluate(model, x, y, short.at(eps=0.06), carry=first, **OPTIONS)


def test_from_eps_zero() -> None:
    zero, small = evaluate_budgets(*case(), PROTOCOL, (0, 0.03), **OPTIONS)
    assert zero.metrics["aa_acc"] == zero.metrics["clean_acc"]
    alone = evaluate(*case(), PROTOCOL.at(eps=0.03), **OPTIONS)
    assert small.metrics["aa_acc"] == alone.metrics["aa_acc"]
