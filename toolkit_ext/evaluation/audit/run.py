"""Audit a model by ten checks that a sound evaluation passes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from toolkit_ext.data import check_images, check_labels
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.audit import judge
from toolkit_ext.evaluation.audit.judge import Audit, Check
from toolkit_ext.evaluation.audit.probe import Probe
from toolkit_ext.evaluation.evaluate import evaluate, evaluate_budgets
from toolkit_ext.evaluation.loading.adapters import Classifier, as_module
from toolkit_ext.evaluation.loading.checks import find_device
from toolkit_ext.evaluation.loading.substitute import as_substitute, behind_the_door
from toolkit_ext.evaluation.protocol import Budget, Protocol, load_protocol
from toolkit_ext.evaluation.result import Evaluation
from toolkit_ext.evaluation.settings import batch_size_of
from toolkit_ext.evaluation.suite.columns import gradient_attack

COLUMNS = ("clean", "fgsm", "pgd20", "pgd100", "square")
TINY = 1e-10  # gradient norm that torchattacks' L2 normalisation treats as zero
_QUERIES = Budget(n_queries=1000)
_HIDDEN = "gradients of the model are masked"


def audit(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    protocol: Protocol | str,
    *,
    transfer: Classifier | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    state_dir: str | Path | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    fresh: bool = False,
    budget: Budget = _QUERIES,
) -> Audit:
    """Check whether gradient attacks work on ``model``; if they do not, its robust accuracy means little.

    The checks (docs/evaluation.md has their sources):

    ``eps_to_zero``: PGD-20 brings the accuracy to 0 as eps doubles up to the whole box (its diagonal).
    ``iterated_beats_single_step``: PGD-20 breaks what FGSM breaks.
    ``white_box_beats_black_box``: PGD breaks what Square breaks, which uses no gradient.
    ``more_steps``: PGD-100 breaks what PGD-20 breaks, and not much more.
    ``loss_rises``: the loss rises along PGD-20.
    ``gradients``: input gradients are neither zero nor tiny nor NaN.
    ``first_step``: at the first step of FGSM and PGD, input gradients are neither zero nor NaN.
    ``batch``: an image's logits do not depend on the other images of its batch.
    ``randomness``: the model gives the same logits twice.
    ``transfer``: PGD on the model breaks what PGD on another model, ``transfer``, breaks.

    Args:
        model: As for :func:`toolkit_ext.evaluation.evaluate`.
        x: Images; a few hundred are enough, because the audit only compares attacks.
        y: Labels.
        protocol: Norm, radius and step sizes; its attacks are ignored.
        transfer: Another model of the same data, such as an undefended one; None omits that check.
        seed: Seed of every attack.
        batch_size: Images attacked at once; None takes 250, and fewer of images larger than 3 x 64 x 64.
        state_dir: Folder for finished batches, as for :func:`toolkit_ext.evaluation.evaluate`.
        progress: Show progress bars.
        num_classes: Number of classes of the data, checked against the model's.
        fresh: Delete what ``state_dir`` holds.
        budget: Effort of Square.

    Raises:
        UserError: what an evaluation refuses; an ``eps`` of 0; a model that is never right; an unfit ``transfer``.
    """
    protocol = load_protocol(protocol)
    if protocol.eps == 0:
        raise UserError("eps: 0 is not allowed for an audit; there is nothing to attack")
    x = check_images(x).detach().cpu()
    batch_size = batch_size_of(batch_size, x)
    model = behind_the_door(as_module(model), x)
    substitute = as_substitute(transfer, model, x)
    options: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "progress": progress, "num_classes": num_classes}
    found, accuracies = _attacks(model, x, y, protocol, state_dir, {**options, "fresh": fresh, "budget": budget})
    right = found.robust["clean"]  # the other images need no attack
    labels = check_labels(y, len(x), found.num_classes).cpu()[right]
    attack: Any = gradient_attack("pgd20", found.protocol)
    probe = Probe(model, x[right], labels, attack, find_device(model), batch_size, seed)
    checks = [
        *_comparisons(found, accuracies),
        judge.loss_rises(probe.losses()),
        judge.gradients(probe.gradients(), TINY),
        judge.first_step(_zero_gradients(found)),
        judge.batch(probe.batch_change()),
        judge.randomness(probe.change(), protocol.version),
    ]
    omitted = {"transfer": "no other model was given"} if substitute is None else {}
    if substitute is not None:
        transferred = ("PGD-20 on the other model", probe.transfer(substitute))
        checks.append(judge.compare("transfer", ("PGD", _white_box(found)[right]), transferred, _HIDDEN))
    return Audit(tuple(checks), omitted | found.omitted, protocol.norm, protocol.eps, len(x))


def _radii(protocol: Protocol, x: Tensor) -> list[float]:
    """The protocol's radius, doubled until the ball around any image contains the whole box."""
    whole = {"Linf": 1.0, "L2": math.sqrt(x[0].numel()), "L1": float(x[0].numel())}[protocol.norm]
    doublings = math.ceil(math.log2(whole / protocol.eps)) if protocol.eps < whole else 0
    return [protocol.eps * 2**k for k in range(doublings)] + [max(whole, protocol.eps)]


def _attacks(
    model: nn.Module, x: Tensor, y: Tensor, protocol: Protocol, state_dir: str | Path | None, options: dict[str, Any]
) -> tuple[Evaluation, dict[float, float]]:
    """All columns at the protocol's radius, and the accuracy under PGD-20 by radius."""
    version = "rand" if protocol.version == "rand" else "standard"
    plain = protocol.at(version=version, attacks=COLUMNS, attack_args={}, name="audit")
    columns, growing = (None if state_dir is None else Path(state_dir) / name for name in ("columns", "eps"))
    found = evaluate(model, x, y, plain, state_dir=columns, **options)
    if found.metrics["clean_acc"] == 0:
        raise UserError(f"audit: the model gets none of the {len(x)} images right, so there is nothing to attack")
    pgd = plain.at(attacks=("clean", "pgd20"))
    curve = evaluate_budgets(model, x, y, pgd, _radii(protocol, x), state_dir=growing, **options)
    return found, {one.protocol.eps: one.metrics["pgd20_acc"] for one in curve}


def _zero_gradients(found: Evaluation) -> dict[str, float]:
    return {name: row["zero_gradients"] for name, row in found.details.items() if "zero_gradients" in row}


def _white_box(found: Evaluation) -> Tensor:
    """``[N]`` bool: robust against PGD of 20 and of 100 steps."""
    return found.robust["pgd20"] & found.robust["pgd100"]


def _comparisons(found: Evaluation, accuracies: dict[float, float]) -> list[Check]:
    fgsm, pgd20, pgd100 = (found.robust[name] for name in ("fgsm", "pgd20", "pgd100"))
    checks = [
        judge.eps_to_zero(accuracies),
        judge.compare("iterated_beats_single_step", ("PGD-20", pgd20), ("FGSM", fgsm), _HIDDEN),
        judge.more_steps(("PGD-100", pgd100), ("PGD-20", pgd20)),
    ]
    if "square" in found.robust:
        both = ("PGD", _white_box(found)), ("Square", found.robust["square"])
        checks.insert(2, judge.compare("white_box_beats_black_box", *both, _HIDDEN))
    return checks
