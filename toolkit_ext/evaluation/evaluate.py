"""Evaluate a classifier: one call, resumable after every batch, at one radius or at several."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from toolkit_ext.data import ImageSet, as_tensors
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.balanced import balanced_metrics, class_counts
from toolkit_ext.evaluation.confidence import check_confidence, confidence_of
from toolkit_ext.evaluation.loading.adapters import Classifier, as_module, check_identity
from toolkit_ext.evaluation.loading.checks import find_device, opened
from toolkit_ext.evaluation.loading.substitute import as_substitute
from toolkit_ext.evaluation.protocol import TRANSFER, Budget, Protocol, budgets, load_protocol
from toolkit_ext.evaluation.result import Evaluation, figures
from toolkit_ext.evaluation.running.clock import start_clock
from toolkit_ext.evaluation.running.logits import LogitStore
from toolkit_ext.evaluation.running.runner import Runner
from toolkit_ext.evaluation.running.state import shared_state
from toolkit_ext.evaluation.settings import BatchSize, check_carry, find_batch_size, settle
from toolkit_ext.evaluation.suite.attack_suite import AttackSuite
from toolkit_ext.evaluation.suite.precision import Precision, check_precision
from toolkit_ext.io import check_output
from toolkit_ext.ranks import Ranks, current

_STANDARD = Budget()


def evaluate(
    model: Classifier,
    x: Tensor | ImageSet | Dataset[Any] | DataLoader[Any],
    y: Tensor | None,
    protocol: Protocol | str,
    *,
    seed: int = 0,
    batch_size: BatchSize | None = None,
    precision: Precision = "fp32",
    device: torch.device | str | None = None,
    state_dir: str | Path | None = None,
    save_examples: str | Path | None = None,
    store_logits: str | Path | bool = False,
    progress: bool = True,
    num_classes: int | None = None,
    fresh: bool = False,
    reject_probabilities: bool = True,
    budget: Budget = _STANDARD,
    carry: Evaluation | None = None,
    max_time: float | None = None,
    transfer: Classifier | None = None,
) -> Evaluation:
    """Robust accuracy of ``model`` by AutoAttack and the further attacks of ``protocol``.

    AutoAttack is pyautoattack's (Croce and Hein: Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks. ICML 2020). For the same model, images, seed and batch size, every image gets the
    verdict of its ``run_standard_evaluation`` in float32; every success is then re-checked in full float32. With fewer
    than 10 classes, targeted attacks use all other classes; ``omitted`` names attacks undefined for 2 or 3 classes. The
    processes of a multi-process run (torchrun) share the batches and return the result of a single process.

    The model runs in evaluation mode with frozen weights, without autocast, in the float32 arithmetic that torch's
    flags allow (TF32 convolutions on CUDA by default). The model, torch's random state and tracers are restored.

    Args:
        model: A module or function that maps ``[N, C, H, W]`` float32 in [0, 1] to logits ``[N, K]``, also with other
            outputs (a dictionary or object with ``logits``, a tuple that begins with them). Or ART's
            ``PyTorchClassifier``, whose ``clip_values`` and preprocessing are applied to images in [0, 1], or its
            ``EnsembleClassifier``.
        x: Images ``[N, C, H, W]``, floats in [0, 1] or uint8. Or a torch ``Dataset`` or ``DataLoader`` of images and
            labels, read as a whole.
        y: Index labels ``[N]`` (or one-hot); None with a ``Dataset`` or ``DataLoader``.
        protocol: A :class:`Protocol`, or the name or path of one.
        seed: Seed of every attack, set before each batch.
        batch_size: Images attacked at once; it affects results, because random numbers are drawn per batch. None takes
            250, and fewer of images larger than 3 x 64 x 64. ``auto`` measures several sizes; ``settings`` has the
            chosen one, which a resumed evaluation keeps.
        precision: ``fp32``, ``bf16-verified`` or ``fp32-reference``, see :mod:`toolkit_ext.evaluation.suite.precision`.
        device: Checked against the model's device, which is the default.
        state_dir: Folder for finished batches of this evaluation. After an interruption, even ``kill -9``, the same
            call resumes and gives the same result. Further ``attacks`` may be added later.
        save_examples: Path of a safetensors file for the adversarial examples, see :class:`Examples`.
        store_logits: Keep the labels and the logits of every image, clean and under each attack, in the result, which
            then has ``confidence`` too; with a path, also in that safetensors file. Not with ``carry``.
        progress: Show a progress bar.
        num_classes: Number of classes of the data, checked against the model's.
        fresh: Delete what ``state_dir`` holds.
        reject_probabilities: Refuse a model that returns probabilities instead of adding a warning to the result.
        budget: Effort of AutoAttack; only the default is standard AutoAttack.
        carry: An evaluation that differs only in its smaller ``eps``. What an attack broke there counts as broken here
            and is not attacked again; its examples are kept. :func:`evaluate_budgets` does this for several radii.
        max_time: Minutes after which no further batch is attacked. The result is then about the images judged so far,
            the first ones, and marked ``partial``. It needs a ``state_dir``; the same call goes on there.
        transfer: Another model of the same data, on which the columns ``transfer:NAME`` craft their examples. These are
            then tried on ``model``.

    Raises:
        UserError: bad images, labels, model, option or output path; a ``state_dir`` in use or of another evaluation; no
            image judged within ``max_time``.
    """
    clock = start_clock(max_time, stores=state_dir is not None, carries=carry is not None)
    protocol, model = load_protocol(protocol), as_module(model)
    images, labels = as_tensors(x, y)
    check_precision(precision, protocol.version)
    check_identity(model, state_dir)
    device = find_device(model, device)
    ranks = current(device)
    _check_options(protocol, transfer, save_examples, store_logits, curve=carry is not None)
    with opened(model, images, labels, precision, device, num_classes) as subject:
        source = as_substitute(transfer, subject.model, subject.x)
        size = ranks.first(partial(find_batch_size, batch_size, subject, state_dir, fresh))
        settings = settle(subject, protocol, seed, size, budget, precision, source)
        check_carry(carry, settings)
        bar = _bar(protocol, shown=progress and ranks.is_first)
        with bar, shared_state(state_dir, settings.key(carry), ranks, fresh=fresh) as state:
            logits = LogitStore() if store_logits else None
            runner = Runner(subject, size, state, ranks, bar, clock=clock, logits=logits)
            suite = AttackSuite(runner, settings, carry, source)
            suite.run(reject_probabilities=reject_probabilities)
    return _saved(_result(suite), ranks, save_examples, store_logits)


def _bar(protocol: Protocol, *, shown: bool) -> tqdm[Any]:
    return tqdm(desc=f"evaluate {protocol.name}", unit="image", disable=None if shown else True)


def _check_options(
    protocol: Protocol,
    transfer: Classifier | None,
    save_examples: str | Path | None,
    store_logits: str | Path | bool,
    *,
    curve: bool,
) -> None:
    """Refuse now what would fail after the attacks, or have no effect."""
    for path in (save_examples, store_logits):
        if path is not None and not isinstance(path, bool):
            check_output(Path(path))
    if store_logits:
        _check_logits(curve=curve)
    columns = [attack for attack in protocol.attacks if attack.startswith(TRANSFER)]
    if columns and transfer is None:
        raise UserError(f"attacks: {columns[0]} crafts on another model; give it as transfer (--transfer-from)")
    if transfer is not None and not columns:
        raise UserError(f"transfer: has no effect without a column such as {TRANSFER}pgd20")


def _check_logits(*, curve: bool) -> None:
    if curve:
        raise UserError("store_logits: is not for a curve, whose radii do not attack every image; give a single eps")
    check_confidence()


def _saved(
    evaluation: Evaluation, ranks: Ranks, save_examples: str | Path | None, store_logits: str | Path | bool
) -> Evaluation:
    if save_examples is not None and ranks.is_first:
        evaluation.examples.save(save_examples)
    if not isinstance(store_logits, bool) and ranks.is_first:
        evaluation.save_logits(store_logits)
    return evaluation


def _result(suite: AttackSuite) -> Evaluation:
    runner, partial_ = suite.runner, suite.partial()
    robust = {name: flags[: runner.judged] for name, flags in suite.robust.items()}
    metrics, intervals = figures(robust)
    y = suite.subject.y[: runner.judged]
    columns = [name for name in robust if "/" not in name and name != "union"]
    logits = runner.logits.columns(columns, runner.judged) if runner.logits is not None else {}
    return Evaluation(
        protocol=suite.protocol,
        n_examples=runner.judged,
        num_classes=suite.subject.classes,
        metrics=metrics,
        intervals=intervals,
        warnings=tuple(runner.flags),
        omitted=suite.omitted,
        details={name: row.to_dict() for name, row in runner.details(suite.robust).items()},
        robust=robust,
        balanced=balanced_metrics(robust, y),
        classes=class_counts(robust, y, suite.subject.classes),
        logits={**logits, "labels": y} if logits else {},
        confidence=confidence_of(logits, y),
        carried=_carried(suite.carry),
        refuted=_refuted(runner),
        examples=runner.examples(suite.protocol),
        seconds=round(runner.seconds, 3),
        settings=suite.settings.to_dict(),
        partial=partial_,
    )


def _refuted(runner: Runner) -> dict[str, Tensor]:
    flags = {name: images[: runner.judged] for name, images in runner.refuted.items()}
    return {name: images for name, images in flags.items() if images.any()}


def _carried(carry: Evaluation | None) -> dict[str, int]:
    """Number of images that each column broke at the smaller radius."""
    robust = carry.robust if carry else {}
    columns = [name for name in robust if "/" not in name and name != "clean"]
    return {name: int((robust["clean"] & ~robust[name]).sum()) for name in columns}


def evaluate_budgets(
    model: Classifier,
    x: Tensor | ImageSet | Dataset[Any] | DataLoader[Any],
    y: Tensor | None,
    protocol: Protocol | str,
    eps: Sequence[float | str],
    *,
    state_dir: str | Path | None = None,
    save_examples: str | Path | None = None,
    **options: Any,
) -> tuple[Evaluation, ...]:
    """Robustness curve: one :class:`Evaluation` per radius of ``eps``, in growing order.

    An image that an attack broke at a smaller radius counts as broken at every larger one and is not attacked again,
    because its adversarial example lies in the larger ball too. So accuracy never rises along the curve and is at most
    that of a separate evaluation. A column whose ball does not grow (``pgd_l2`` of a Linf protocol) runs once.

    Args:
        model: As for :func:`evaluate`, as are ``x``, ``y`` and ``options``.
        x: Images.
        y: Labels.
        protocol: What to run; its own ``eps`` is ignored.
        eps: Radii, numbers or text such as ``8/255``, in any order.
        state_dir: Folder with a subfolder per radius; an interrupted curve resumes at the batch where it stopped.
        save_examples: Path of a safetensors file; ``@<eps>`` is added to its stem.

    Raises:
        UserError: radii that :func:`budgets` refuses, and whatever :func:`evaluate` refuses.
    """
    if options.get("store_logits"):
        _check_logits(curve=True)
    x, y = as_tensors(x, y)
    start_clock(options.get("max_time"), stores=state_dir is not None, carries=True)
    found: list[Evaluation] = []
    for at in budgets(load_protocol(protocol), eps):
        folder = None if state_dir is None else Path(state_dir) / at.name
        path = None if save_examples is None else Path(save_examples)
        path = path and path.with_stem(f"{path.stem}@{at.name.rpartition('@')[2]}")
        if found:  # one curve has one batch size, measured once
            options |= {"carry": found[-1], "batch_size": found[-1].settings["batch_size"]}
        found.append(evaluate(model, x, y, at, state_dir=folder, save_examples=path, **options))
    return tuple(found)
