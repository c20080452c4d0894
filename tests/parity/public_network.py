"""Columns of an evaluation beside the library behind each, called directly, on a public network and real images.

The network is the undefended ResNet-18 of pyautoattack's wheel, the images are the first of CIFAR-10's test part.
``docs/build_columns.py --measure`` writes the figures to ``docs/columns.csv``.
"""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyautoattack
import torch
import torchattacks
from art.attacks import evasion
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from toolkit_ext import data
from toolkit_ext.data.corruptions import KINDS, SEVERITIES
from toolkit_ext.evaluation import (
    Budget,
    Evaluation,
    Protocol,
    Shape,
    Smoothing,
    certify,
    evaluate,
    evaluate_corruptions,
    load,
)
from toolkit_ext.evaluation.loading.checks import honest_dynamic_check
from toolkit_ext.evaluation.protocol import column_name
from toolkit_ext.evaluation.running.isolation import preserved_rng
from toolkit_ext.evaluation.suite.autoattack import set_budget

SEED, PIXEL = 3, 1 / 255
FEW = {"steps": 4, "N": 2}  # steps and neighbours
SHORT = Budget(n_iter=3, n_queries=10)
EOT = str(Path(__file__).with_name("eot_attack.py")) + ":attack"


class Case(NamedTuple):
    """The network, images ``[N, 3, 32, 32]`` in [0, 1] and their classes ``[N]``."""

    model: nn.Module
    x: Tensor
    y: Tensor


class Found(NamedTuple):
    """One figure of ours and of the library, and how far they differ: for images, how many have another verdict."""

    ours: float
    theirs: float
    difference: float


class Noisy(nn.Module):
    """``model`` on images with Gaussian noise."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x + 0.01 * torch.randn_like(x))
        return logits


def case(root: str | Path, n: int = 12) -> Case:
    """The network and the first ``n`` test images of CIFAR-10 below ``root``."""
    examples = Path(pyautoattack.__file__).parent / "examples"
    loaded = load(f"{examples / 'resnet.py'}:ResNet18", Shape(10, 3, (32, 32)), weights=examples / "model_test.pt")
    images = data.open_source("cifar10", root=root).subset(n_test=n)
    return Case(loaded.model.eval(), data.to_unit(images.x_test.all()), images.y_test)


def _verdicts(ours: Tensor, theirs: Tensor) -> Found:
    return Found(int(ours.sum()), int(theirs.sum()), int((ours != theirs).sum()))


def _column(
    case: Case,
    attack: str,
    direct: Callable[..., Any],
    *,
    eps: float = PIXEL,
    version: Any = "standard",
    arguments: dict[str, Any] | None = None,
    transfer: nn.Module | None = None,
) -> Found:
    """The images that the column ``attack`` leaves right, and those that ``direct(x, y)`` leaves right in the ball."""
    attacks = ("clean", attack)
    protocol = Protocol("public", "Linf", eps, version=version, attacks=attacks, attack_args=arguments or {})
    found = evaluate(*case, protocol, seed=SEED, transfer=transfer, progress=False)
    left = found.robust["clean"]
    x, y = case.x[left], case.y[left]
    with preserved_rng(torch.device("cpu")):
        torch.manual_seed(SEED)
        np.random.seed(SEED)
        inputs = direct(x.clone(), y.clone())
        with torch.no_grad():
            fooled = case.model(inputs).argmax(dim=1) != y
    theirs = left.clone()
    theirs[left] = ~(fooled & ((inputs - x).flatten(1).abs().amax(dim=1) <= eps + 1e-6))
    return _verdicts(found.robust[column_name(attack)], theirs)


def _vmifgsm(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """torchattacks' attack, its step size in torchattacks' own proportion to eps."""
    attack: Callable[[Tensor, Tensor], Tensor] = torchattacks.VMIFGSM(model, eps=PIXEL, alpha=PIXEL / 4, **FEW)
    return attack


def vmifgsm(case: Case) -> Found:
    """``torchattacks:VMIFGSM``, four steps of two neighbours."""
    return _column(case, "torchattacks:VMIFGSM", _vmifgsm(case.model), arguments=FEW)


def transfer(case: Case) -> Found:
    """The same, crafted on a copy whose weights have 5% of noise."""
    torch.manual_seed(SEED)
    other = copy.deepcopy(case.model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1 + 0.05 * torch.randn_like(weight))
    return _column(case, "transfer:torchattacks:VMIFGSM", _vmifgsm(other), arguments=FEW, transfer=other)


def own_function(case: Case) -> Found:
    """A function of one's own with EOT on a randomised network, beside torchattacks' attack of the same steps."""
    noisy = Case(Noisy(case.model).eval(), case.x, case.y)
    attack = torchattacks.EOTPGD(noisy.model, eps=PIXEL, alpha=PIXEL / 4, steps=4, eot_iter=2)
    return _column(noisy, EOT, attack, version="rand")


def _art(case: Case, name: str, **options: Any) -> Callable[[Tensor, Tensor], Tensor]:
    loss, clip = nn.CrossEntropyLoss(), (0.0, 1.0)
    estimator = PyTorchClassifier(case.model, loss, (3, 32, 32), 10, clip_values=clip, device_type="cpu")
    attack = getattr(evasion, name)(estimator, **options)
    return lambda x, y: torch.from_numpy(attack.generate(x.numpy(), nn.functional.one_hot(y, 10).float().numpy()))


def art_pgd(case: Case) -> Found:
    """``art:ProjectedGradientDescent``, 5 steps of a third of eps, ART's own proportion."""
    options = {"eps": PIXEL, "eps_step": PIXEL / 3, "max_iter": 5, "verbose": False, "batch_size": len(case.x)}
    direct = _art(case, "ProjectedGradientDescent", **options)
    return _column(case, "art:ProjectedGradientDescent", direct, arguments={"max_iter": 5})


def art_square(case: Case) -> Found:
    """``art:SquareAttack``, a black-box attack, 50 queries."""
    options = {"eps": 2 * PIXEL, "max_iter": 50, "verbose": False, "batch_size": len(case.x)}
    direct = _art(case, "SquareAttack", **options)
    return _column(case, "art:SquareAttack", direct, eps=2 * PIXEL, arguments={"max_iter": 50})


def autoattack_l1(case: Case) -> Found:
    """AutoAttack in L1 at a short budget, on the first four images."""
    eps, (model, x, y) = 1.0, Case(case.model, case.x[:4], case.y[:4])
    found = evaluate(model, x, y, Protocol("public", "L1", eps), seed=SEED, budget=SHORT, progress=False)
    adversary = pyautoattack.AutoAttack(model, norm="L1", eps=eps, seed=SEED, device="cpu")
    set_budget(adversary, SHORT)
    with preserved_rng(torch.device("cpu")), honest_dynamic_check():
        torch.manual_seed(SEED)
        _, labels = adversary.run_standard_evaluation(x, y, batch_size=len(x))
    return _verdicts(found.robust["aa"], labels == y)


def smoothing(case: Case) -> tuple[Found, Found]:
    """Predictions and radii of randomised smoothing on the first four images."""
    x, y, n = case.x[:4], case.y[:4], {"samples": 100, "selection_samples": 20, "failure_probability": 0.01}
    found = certify(case.model, x, y, Smoothing(sigma=0.05, **n), seed=SEED, progress=False)  # type: ignore[arg-type]
    given: dict[str, Any] = {"sample_size": 20, "scale": 0.05, "alpha": 0.01, "clip_values": (0.0, 1.0)}
    art = PyTorchRandomizedSmoothing(case.model, nn.CrossEntropyLoss(), (3, 32, 32), 10, device_type="cpu", **given)
    predictions, radii = [], []
    for index in range(len(x)):
        np.random.seed([SEED, index])
        prediction, radius = art.certify(x[index : index + 1].numpy(), n=100, batch_size=250)
        predictions.append(prediction.item())
        radii.append(radius.item())
    apart = (found.radius - torch.tensor(radii, dtype=torch.float64)).abs().max()
    same = _verdicts(found.prediction == y, torch.tensor(predictions) == y)
    return same, Found(float(found.radius.mean()), sum(radii) / len(radii), float(apart))


def confidence(case: Case) -> tuple[Found, ...]:
    """ECE, NLL and Brier score, clean and under VMIFGSM, beside the classes of torchmetrics."""
    protocol = Protocol("public", "Linf", PIXEL, attacks=("clean", "torchattacks:VMIFGSM"), attack_args=FEW)
    found = evaluate(*case, protocol, seed=SEED, store_logits=True, progress=False)
    attacked, left = case.x.clone(), found.robust["clean"]
    with preserved_rng(torch.device("cpu")):
        torch.manual_seed(SEED)
        attacked[left] = _vmifgsm(case.model)(case.x[left], case.y[left])
    return tuple(
        Found(_told(found, column)[name], value, abs(_told(found, column)[name] - value))
        for column, inputs in (("clean", case.x), ("torchattacks:VMIFGSM", attacked))
        for name, value in _torchmetrics(case, inputs).items()
    )


def _told(found: Evaluation, column: str) -> dict[str, float]:
    assert found.confidence
    return found.confidence[column]


def _torchmetrics(case: Case, inputs: Tensor) -> dict[str, float]:
    """Its calibration error; NLL is the logarithm of its perplexity, and the Brier score a sum of squared errors."""
    metrics, text = (importlib.import_module(f"torchmetrics{part}") for part in ("", ".text"))
    with torch.no_grad():
        logits = case.model(inputs).double()
    p, target = logits.softmax(dim=1), nn.functional.one_hot(case.y, 10).double()
    ece = metrics.classification.MulticlassCalibrationError(10, n_bins=15, norm="l1")(p, case.y)
    perplexity = text.Perplexity()(logits[None], case.y[None])
    squares = metrics.MeanSquaredError()(p, target)
    return {"ece": float(ece), "nll": math.log(perplexity), "brier": 10 * float(squares)}


def corruptions(case: Case) -> Found:
    """Accuracy under the 75 corruptions of the first eight images, made by the package called directly."""
    package: Any = importlib.import_module("imagecorruptions")
    x, y = case.x[:8].mul(255).round().to(torch.uint8), case.y[:8]
    found = evaluate_corruptions(case.model, x, y, progress=False)
    right = []
    for number, (kind, severity) in enumerate((kind, severity) for kind in KINDS for severity in SEVERITIES):
        made = []
        for index, image in enumerate(x.permute(0, 2, 3, 1).numpy()):
            np.random.seed(np.random.SeedSequence((number, index)).generate_state(1)[0])
            own = {"seed": np.random.randint(2**31)} if kind in ("impulse_noise", "glass_blur") else {}
            made.append(package.corrupt(image.copy(), severity, kind, **own))
        inputs = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            right.append(case.model(inputs).argmax(dim=1) == y)
    return _verdicts(torch.cat([found.right[kind].flatten() for kind in KINDS]), torch.cat(right))
