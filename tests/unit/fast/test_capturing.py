"""An attack captured as a CUDA graph, acted out on the CPU: the operations of a block, repeated on the same memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from toolkit_ext import backbones, fast
from toolkit_ext.attacks import FGSM, MIM, PGD, TPGD, generate
from toolkit_ext.errors import UserError
from toolkit_ext.fast.capturing import CapturedAttack
from toolkit_ext.trainers.attack_runner import AttackRunner
from toolkit_ext.types import AdversarialInputs, Attack, Batch

Y = torch.tensor([0, 1, 2, 3])


class Graph(TorchDispatchMode):
    """Stands in for ``torch.cuda.CUDAGraph``."""

    made: list[Graph] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        self.made.append(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero"):
            raise RuntimeError("operation not permitted when stream is capturing")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, out in self.calls:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@contextmanager
def capturing(graph: Graph, **options: Any) -> Iterator[None]:
    with torch.random.fork_rng([]), graph:  # a real graph draws nothing while it is captured
        yield


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    monkeypatch.setattr(Graph, "made", [])
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capturing)
    return Graph.made


def network() -> nn.Module:
    torch.manual_seed(0)
    return backbones.create("resnet18_w", num_classes=4, in_chans=3, image_size=8, width=1).double()


def images(seed: int, size: int = 4) -> Tensor:
    return torch.rand(size, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "attack",
    [PGD(eps=0.1, steps=2), PGD(eps=0.5, steps=2, norm="L2"), MIM(eps=0.1, steps=2), FGSM(eps=0.1), TPGD(eps=0.1)],
    ids=lambda attack: f"{type(attack).__name__} {attack.norm}",
)
def test_a_captured_attack_gives_the_examples_of_torchattacks(attack: Attack, graphs: list[Graph]) -> None:
    """On other images, with weights that moved, and from random starts that are drawn anew."""
    model = network()
    attacks = AttackRunner(model, fast.plan(model, compile_mode="cuda-graph", device="cuda"), attack)
    kept: list[tuple[Tensor, Tensor]] = []
    for number in range(5):
        x, y = images(number % 4), (Y + number) % 4
        torch.manual_seed(number)
        found = attacks.generate(attack, Batch(x, y, AdversarialInputs(x))).inputs
        assert attacks.frozen is not None
        torch.manual_seed(number)
        kept.append((found, generate(attack, attacks.frozen.copy, x, y).inputs))
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.1)
    assert [graph.replays for graph in graphs] == [4]
    for found, expected in kept:  # the later ones did not overwrite the earlier
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(kept[0][0], kept[4][0])


def run(captured: CapturedAttack, eps: float, size: int) -> None:
    x = images(0, size)
    found = captured(FGSM(eps=eps), lambda x, y: x * 2 + y.view(-1, 1, 1, 1) * eps, x, torch.arange(size))
    torch.testing.assert_close(found, x * 2 + torch.arange(size).view(-1, 1, 1, 1) * eps)


@pytest.mark.parametrize(
    ("calls", "replays"),
    [
        ([(0.1, 4)] * 3 + [(0.1, 2)] + [(0.1, 4)] * 3 + [(0.1, 2)], [5]),  # epochs with a smaller last batch
        ([(0.1, 4), (0.2, 4), (0.3, 4)], []),  # eps moves with every step
        ([(0.1, 4), (0.2, 4), (0.2, 4), (0.2, 4), (0.4, 4), (0.4, 4)], [2, 1]),
    ],
)
def test_what_comes_twice_in_a_row_is_captured(
    calls: list[tuple[float, int]], replays: list[int], graphs: list[Graph]
) -> None:
    captured = CapturedAttack()
    for eps, size in calls:
        run(captured, eps, size)
    assert [graph.replays for graph in graphs] == replays


def test_what_the_host_has_to_read_is_told(graphs: list[Graph]) -> None:
    captured, x = CapturedAttack(), images(0)
    reads = lambda x, y: x * float(x.sum())  # noqa: E731
    captured(FGSM(), reads, x, Y)
    for _ in range(2):
        with pytest.raises(UserError, match=r"cuda-graph cannot capture this attack \(operation not permitted"):
            captured(FGSM(), reads, x, Y)
    assert [graph.replays for graph in graphs] == [0, 0]


@pytest.mark.parametrize(
    ("attack", "device", "message"),
    [
        (PGD(), "cpu", "compile_mode: 'cuda-graph' is not allowed on cpu"),
        (PGD(backend="art"), "cuda", "compile_mode: 'cuda-graph' is for PGD, MIM and FGSM"),
    ],
)
def test_where_nothing_can_be_captured(attack: Attack, device: str, message: str) -> None:
    model = nn.Linear(3, 4)
    with pytest.raises(UserError, match=message):
        AttackRunner(model, fast.plan(model, compile_mode="cuda-graph", device=device), attack)
