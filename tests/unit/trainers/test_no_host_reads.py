"""A training step reads nothing from the device: on a GPU the host would wait for it, and the device then for the host.

Acted out on the CPU: an operation whose result the host needs raises within every step after the first, which makes the
frozen copy. ``.cpu()`` of a tensor that lies there is no such operation; the tests marked cuda look for it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit_ext.trainers import TRAINERS, as_classifier, loop
from toolkit_ext.trainers.compose import known
from toolkit_ext.trainers.non_finite import NonFiniteCheck

READS = {
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "unique_consecutive",
    "_unique2",
}
TINY: dict[str, Any] = {
    "eps": 0.1,
    "steps": 2,
    "deep_steps": 1,
    "periods": 1,
    "eps_per": "batch",
    "warmup_epochs": 0.0,
    "eps_warmup_epochs": 1.0,
    "validation_fraction": 0.0,
    "measure_every": 0,
    "fused_optimizer": "on",
}
ON_THE_HOST = {"deep"}  # its search goes on with those examples alone whose loss can still rise


class HostReadError(RuntimeError):
    """The host asked for a number."""


class NoHostReads(TorchDispatchMode):
    """Raises where the host would wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = args[1] if name.startswith("index") and isinstance(args[1], list) else []
        if name in READS or any(isinstance(mask, Tensor) and mask.dtype == torch.bool for mask in masks):
            raise HostReadError(name)
        return func(*args, **(kwargs or {}))


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))


def train(monkeypatch: pytest.MonkeyPatch, method: str, **options: Any) -> int:
    """Three steps of ``method`` with the check as on a GPU; how many of them ran without a read allowed."""
    step, watched = loop.Run._step, 0

    def without_reads(run: Any, *args: Any) -> Any:
        nonlocal watched
        if args[-1] == 0:
            return step(run, *args)
        watched += 1
        with NoHostReads():  # type: ignore[no-untyped-call]
            return step(run, *args)

    monkeypatch.setattr(loop.Run, "_step", without_reads)
    as_on_a_gpu = lambda *args, **given: NonFiniteCheck(*args, **{**given, "on_device": True})  # noqa: E731
    monkeypatch.setattr(loop, "NonFiniteCheck", as_on_a_gpu)
    x = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    given = {name: value for name, value in TINY.items() if name in known(TRAINERS[method].method, options)} | options
    trainer = TRAINERS[method](as_classifier(small_network(), (1, 4, 4), 3), **given)
    trainer.fit(x, torch.arange(12) % 3, batch_size=4, nb_epochs=2, progress=False)
    return watched


@pytest.mark.parametrize("method", sorted(set(TRAINERS) - ON_THE_HOST))
def test_no_step_of_a_method_reads_from_the_device(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(monkeypatch, method) == 5


@pytest.mark.parametrize(
    "options",
    [
        {"ema_decay": 0.9},
        {"clip_grad": 1.0},
        {"augment": "crop-flip"},
        {"label_smoothing": 0.1},
        {"optimizer": "adamw"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_no_option_of_the_loop_makes_a_step_read(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(monkeypatch, "pgd", **options) == 5


def test_a_read_in_a_step_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostReadError):
        train(monkeypatch, "pgd", optimizer="sgd", fused_optimizer="off")
    with NoHostReads(), pytest.raises(HostReadError):  # type: ignore[no-untyped-call]
        bool(torch.ones(2)[torch.tensor([True, False])])
