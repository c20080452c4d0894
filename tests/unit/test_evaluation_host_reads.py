"""On a GPU the attacks of AutoAttack read few values, for which the host would wait; acted out on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit_ext.evaluation import Budget
from toolkit_ext.evaluation.suite import rows
from toolkit_ext.evaluation.suite.autoattack import perturb, set_budget
from toolkit_ext.evaluation.suite.fast import make_fast
from toolkit_ext.evaluation.suite.precision import Judge

CLASSES, STEPS, QUERIES = 5, 20, 200


class HostReads(TorchDispatchMode):
    """Counts operations whose result the host needs."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = args[1] if name.startswith("index") and isinstance(args[1], list) else []
        by_mask = any(isinstance(mask, Tensor) and mask.dtype == torch.bool for mask in masks)
        unknown = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        self.count += name in ("_local_scalar_dense", "nonzero", "equal") or by_mask or unknown
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostReads]:
    plain = Tensor.tolist
    with HostReads() as reads, monkeypatch.context() as patch:  # type: ignore[no-untyped-call]

        def tolist(tensor: Tensor) -> Any:
            reads.count += 1
            return plain(tensor)

        patch.setattr(Tensor, "tolist", tolist)
        yield reads


class Apart(nn.Module):
    """A linear model whose logits are summed image by image, so that company in a batch changes no bit."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, 108, generator=torch.Generator().manual_seed(0)))
        self.requires_grad_(False)
        self.asked: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        logits: Tensor = (x.flatten(1).unsqueeze(1) * self.weight).sum(dim=2)
        return logits


def attacked(model: Apart, attack: str, n: int, *, judged: bool) -> tuple[Tensor, Tensor]:
    """The images and what the attack made of them."""
    x = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    adversary = AutoAttack(model, norm="Linf", eps=0.25 if attack == "square" else 0.1, seed=1)
    set_budget(adversary, Budget(STEPS, QUERIES))
    adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = CLASSES - 1
    make_fast(adversary, Judge(Apart()) if judged else None)
    y = model(x).argmax(dim=1)
    model.asked.clear()
    return x, perturb(adversary, attack, x.clone(), y)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rows._FULL, "cpu", rows._FULL["cuda"])
    for module in ("rows", "fast.fab"):
        monkeypatch.setattr(f"toolkit_ext.evaluation.suite.{module}.reads_freely", lambda _: False)


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_the_examples_are_those_of_a_cpu(attack: str, judged: bool, request: pytest.FixtureRequest) -> None:
    model = Apart()
    x, expected = attacked(model, attack, 40, judged=judged)
    request.getfixturevalue("as_on_a_gpu")
    assert torch.equal(attacked(model, attack, 40, judged=judged)[1], expected)
    assert 5 < int((expected != x).flatten(1).any(dim=1).sum()) < 35


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize(
    ("attack", "n", "per_pass"),
    [("square", 40, 3), ("square", 260, 3), ("fab-t", 40, 1), ("apgd-ce", 40, 2)],
)
def test_an_attack_reads_little(
    attack: str, n: int, per_pass: int, judged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each pass, with one more for a judge; of Square less than once for each query, if passes have room."""
    model = Apart()
    with counted(monkeypatch) as reads:
        attacked(model, attack, n, judged=judged)
    assert reads.count <= (per_pass + judged) * len(model.asked) + 20
    assert attack != "square" or n > 40 or reads.count < 0.75 * QUERIES
