"""Models and losses in every form that users give are trained as the plain one is."""

from __future__ import annotations

import warnings
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Returning, X, Y, classifier, fitted, net  # type: ignore[import-not-found]
from torch import Tensor, distributed, nn
from torch.nn import utils
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, prune

from toolkit_ext.trainers import TRAINERS, MethodTrainer

Change = Callable[[nn.Module], Any]


def state(trainer: MethodTrainer) -> list[Tensor]:
    return list(trainer.model.state_dict().values())


def same(first: MethodTrainer, second: MethodTrainer, tolerance: float = 0.0) -> bool:
    both = zip(state(first), state(second), strict=True)
    return all(torch.allclose(a.float(), b.float(), rtol=0, atol=tolerance) for a, b in both)


@dataclass
class Output:
    loss: Any
    logits: Tensor


Inception = namedtuple("Inception", "logits aux_logits")
OUTPUTS: dict[str, nn.Module] = {
    "float32": Returning(lambda z: z),
    "double": Returning(lambda z: z.double()),
    "dictionary": Returning(lambda z: {"loss": None, "logits": z}),
    "dataclass": Returning(lambda z: Output(None, z)),
    "named tuple while training": Returning(lambda z: Inception(z, z), training=True),
}


@pytest.mark.parametrize("speed", ["off", "auto"])
@pytest.mark.parametrize("form", OUTPUTS)
def test_outputs_with_logits_are_trained_as_these(form: str, speed: str) -> None:
    plain = fitted(classifier(), speed=speed)
    output = OUTPUTS[form]
    output.load_state_dict({f"net.{name}": value for name, value in net().state_dict().items()})
    trainer = fitted(classifier(output), speed=speed)
    assert same(trainer, plain)
    assert not trainer.model._forward_hooks


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_are_trained_on_in_float32(dtype: torch.dtype) -> None:
    assert same(fitted(classifier(Returning(lambda z: z.to(dtype)))), fitted(classifier()), tolerance=1e-2)


HOOKED: dict[str, Change] = {
    "spectral norm": utils.spectral_norm,
    "weight norm": utils.weight_norm,
    "parametrised weight norm": parametrizations.weight_norm,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "pre-hook": lambda layer: layer.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],)),
    "hook": lambda layer: layer.register_forward_hook(lambda _, inputs, output: 2 * output),
}


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}, {"update": "awp"}], ids=str)
@pytest.mark.parametrize("kind", HOOKED)
def test_layers_with_hooks_are_trained_alike_at_every_speed(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    def trained(speed: str) -> Any:
        model = net()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            HOOKED[kind](model[0])
        with torch.no_grad():  # leaves a weight that can be copied, and could be folded
            model.eval()(X[:2])
        return fitted(classifier(model), speed=speed, run_dir=tmp_path / speed, **options)

    assert same(trained("off"), trained("auto"), tolerance=1e-6)


def test_a_batch_norm_with_a_hook_is_not_folded() -> None:
    from toolkit_ext.fast.kernels.folding import find_pairs

    model = net().eval()
    assert find_pairs(model, X[:2]) == [("0", "1")]
    model[1].register_forward_hook(lambda *_: None)
    assert find_pairs(model, X[:2]) == []


def test_a_model_wrapped_in_ddp_is_trained_as_the_bare_one(tmp_path: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(net())
        trainer = fitted(classifier(wrapped), run_dir=tmp_path / "run")
    finally:
        distributed.destroy_process_group()
    assert same(trainer, fitted(classifier()))
    assert torch.equal(wrapped.module[0].weight, trainer.model[0].weight)  # type: ignore[index]


REDUCTIONS = ("none", "mean")


@pytest.mark.parametrize("method", sorted(TRAINERS))
def test_a_loss_without_reduction_is_averaged(method: str) -> None:
    few: dict[str, Any] = {"periods": 1} if method == "pas" else {}
    options = {"lr": 0.01, "warmup_epochs": 0, "validation_fraction": 0, "measure_every": 0, **few}
    none, mean = (TRAINERS[method](classifier(loss=nn.CrossEntropyLoss(reduction=r)), **options) for r in REDUCTIONS)
    for trainer in (none, mean):
        trainer.fit(X, Y, batch_size=8, nb_epochs=1, progress=False)
    assert same(none, mean, tolerance=1e-6)


LOSSES: dict[str, Callable[..., Any]] = {
    "function": nn.functional.cross_entropy,
    "of each example": lambda z, y: nn.functional.cross_entropy(z, y, reduction="none"),
    "subclass": type("Own", (nn.CrossEntropyLoss,), {})(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_form_of_the_cross_entropy_is_the_cross_entropy(name: str) -> None:
    assert same(fitted(classifier(loss=LOSSES[name])), fitted(classifier()), tolerance=1e-6)
