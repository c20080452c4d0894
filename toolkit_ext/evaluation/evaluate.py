"""Evaluate a classifier: one call, resumable after every batch."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from toolkit_ext.data import check_images, check_labels, to_unit
from toolkit_ext.evaluation.loading.art_models import Classifier, as_module
from toolkit_ext.evaluation.loading.checks import check_model, check_options, find_device
from toolkit_ext.evaluation.loading.fingerprint import float32_arithmetic, hash_model, hash_tensors, versions
from toolkit_ext.evaluation.protocol import Budget, Protocol, load_protocol
from toolkit_ext.evaluation.result import Evaluation, details_of, figures
from toolkit_ext.evaluation.running.batch_size import BatchSize, find_batch_size
from toolkit_ext.evaluation.running.carry import carried_key, check_carry, count_carried
from toolkit_ext.evaluation.running.examples import Examples
from toolkit_ext.evaluation.running.isolation import isolated
from toolkit_ext.evaluation.running.recheck import tolerance
from toolkit_ext.evaluation.running.runner import Runner
from toolkit_ext.evaluation.running.sharding import make_runner, shared_state
from toolkit_ext.evaluation.suite.attack_suite import Battery
from toolkit_ext.evaluation.suite.autoattack import Threat, targets
from toolkit_ext.evaluation.suite.flags import Collector
from toolkit_ext.evaluation.suite.precision import Precision, check_precision, laid_out, make_passes
from toolkit_ext.io import make_folder
from toolkit_ext.ranks import current

_STANDARD = Budget()


def evaluate(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    protocol: Protocol | str,
    *,
    seed: int = 0,
    batch_size: BatchSize = 250,
    precision: Precision = "fp32",
    device: torch.device | str | None = None,
    state_dir: str | Path | None = None,
    save_examples: str | Path | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    fresh: bool = False,
    reject_probabilities: bool = True,
    budget: Budget = _STANDARD,
    carry: Evaluation | None = None,
) -> Evaluation:
    """Robust accuracy of ``model`` by AutoAttack and the further attacks of ``protocol``.

    AutoAttack is pyautoattack's (Croce and Hein: Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks. ICML 2020): for the same model, images, seed and batch size, image by image the
    verdicts of its ``run_standard_evaluation`` in float32. Every success is then checked again, see
    ``running.recheck``. With fewer than 10 classes the targeted attacks take all other
    classes as targets; what is undefined for 2 or 3 classes is left out and named in ``omitted``.

    In a job of several processes (torchrun) each attacks every n-th batch, and all return the same result, image by
    image that of one process, see :mod:`toolkit_ext.evaluation.running.sharding`.

    The model is held in evaluation mode, weights frozen, without autocast; its modes and gradients, torch's random
    numbers and the tracers of debuggers are put back. The attacks use the float32 arithmetic that torch's flags allow
    (TF32 in convolutions on CUDA by default), the re-check uses full float32.

    Args:
        model: Takes ``[N, C, H, W]`` float32 in [0, 1], returns logits ``[N, K]``; already on its device. Or an ART
            ``PyTorchClassifier``: images stay in [0, 1], its ``clip_values`` and preprocessing are applied to them.
        x: Images ``[N, C, H, W]``, floats in [0, 1] or uint8.
        y: Index labels ``[N]`` (or one-hot).
        protocol: A :class:`Protocol`, or the name or path of one.
        seed: Seed of every attack, set anew for each batch.
        batch_size: Images attacked at once. Results depend on it, as random numbers are drawn by batch. ``auto``
            measures some sizes on the model, see ``running.batch_size``; the one
            chosen is in ``settings`` and, of a resumed evaluation, the one in ``state_dir``.
        precision: ``fp32``; ``bf16-verified``, faster where there is AMX or a GPU with bfloat16: AutoAttack's attacks
            search in bfloat16 and every success is checked in float32; ``fp32-reference``, pyautoattack's own code
            pixel by pixel. See :mod:`toolkit_ext.evaluation.suite.precision`.
        device: Checked against the model's; None takes the model's.
        state_dir: Folder for finished batches. An evaluation that was stopped, even by ``kill -9``, goes on from there
            with the same result. One folder serves one evaluation; further ``attacks`` may be added later.
        save_examples: Path of a safetensors file for the adversarial examples, see :class:`Examples`.
        progress: Show a progress bar.
        num_classes: Number of classes of the data, to be compared with the model's.
        fresh: Drop what ``state_dir`` holds.
        reject_probabilities: Refuse a model that returns probabilities; otherwise that is a warning in the result.
        budget: Effort of AutoAttack; anything but the default is no standard AutoAttack.
        carry: The evaluation of the same model and images at a smaller ``eps``, all else equal. What an attack broke
            there counts as broken by it here and is not attacked again; the stored examples are carried over.
            :func:`evaluate_budgets` does this for a list of radii.

    Raises:
        UserError: images, labels, a model or an option that cannot be evaluated; a ``state_dir`` of another evaluation
            or in use; an output that cannot be written.
    """
    protocol = protocol if isinstance(protocol, Protocol) else load_protocol(protocol)
    model = as_module(model)
    check_precision(precision, protocol.version)
    device = find_device(model, device)
    ranks = current(device)
    progress = progress and ranks.is_first
    if save_examples is not None:
        make_folder(Path(save_examples).parent)
    with isolated(model, device), laid_out(model, precision, device):
        x = check_images(x).detach().cpu().contiguous()
        image = to_unit(x[:1]).to(device)
        classes = check_model(model, image, num_classes)
        y = check_labels(y, len(x), classes).cpu()
        passes = make_passes(precision, model, image)
        fastest = partial(find_batch_size, batch_size, passes.half or model, x, device, state_dir, fresh)
        at_once = ranks.first(fastest)
        check_options(seed, at_once, budget.n_iter, budget.n_queries)
        threat = Threat(protocol.norm, protocol.eps, protocol.version, seed, device, budget)
        settings = _settings(protocol, threat, at_once, classes) | {"precision": precision}
        key = _key(model, x, y, protocol, settings)
        settings |= {"model_sha256": key["model"], "data_sha256": key["data"]}
        if carry is not None:
            check_carry(carry, protocol, settings)
            key |= carried_key(carry)
        with shared_state(state_dir, key, ranks, fresh=fresh) as state, _bar(protocol, progress) as bar:
            runner = make_runner(ranks, model, x, y, device, at_once, state, bar, Collector())
            battery = Battery(runner, protocol, threat, classes, carry, passes)
            battery.run(reject_probabilities=reject_probabilities)
    evaluation = _result(battery, settings)
    if save_examples is not None and ranks.is_first:
        evaluation.examples.save(save_examples)
    return evaluation


def _bar(protocol: Protocol, progress: bool) -> tqdm[Any]:
    return tqdm(desc=f"evaluate {protocol.name}", unit="image", disable=not progress)


def _settings(protocol: Protocol, threat: Threat, batch_size: int, classes: int) -> dict[str, Any]:
    balls = {protocol.radius(name) for name in protocol.attacks}
    return {
        "seed": threat.seed,
        "batch_size": batch_size,
        "budget": asdict(threat.budget),
        "target_classes": targets(classes),
        "tolerance": {norm: tolerance(norm, eps) for norm, eps in sorted(balls)},
        "device": threat.device.type,
        "float32": float32_arithmetic(),
        "versions": versions(),
    }


def _key(model: nn.Module, x: Tensor, y: Tensor, protocol: Protocol, settings: dict[str, Any]) -> dict[str, Any]:
    """What stored batches depend on. The list of attacks is not in it: each attack has batches of its own."""
    rules = {key: value for key, value in protocol.to_dict().items() if key not in ("name", "attacks")}
    facts = {key: value for key, value in settings.items() if key != "tolerance"}
    return {"model": hash_model(model), "data": hash_tensors([("x", x), ("y", y)]), "protocol": rules, **facts}


def _result(battery: Battery, settings: dict[str, Any]) -> Evaluation:
    runner, protocol = battery.runner, battery.protocol
    metrics, intervals = figures(battery.robust)
    return Evaluation(
        protocol=protocol,
        n_examples=len(runner.x),
        num_classes=battery.classes,
        metrics=metrics,
        intervals=intervals,
        warnings=tuple(runner.flags),
        omitted=battery.omitted,
        details=details_of(runner.rows),
        robust=battery.robust,
        carried=count_carried(battery.carry),
        examples=_examples(runner, protocol),
        seconds=round(runner.seconds, 3),
        settings=settings,
    )


def _examples(runner: Runner, protocol: Protocol) -> Examples:
    found = runner.found
    indices = torch.cat(found.indices)
    order = indices.argsort()
    balls = {name: (protocol.norm, protocol.eps) if "/" in name else protocol.radius(name) for name in runner.rows}
    return Examples(
        inputs=torch.cat(found.inputs)[order],
        indices=indices[order],
        labels=runner.y[indices][order],
        predictions=torch.cat(found.predictions)[order],
        attacks=tuple(found.attacks[position] for position in order.tolist()),
        balls={**balls, "clean": (protocol.norm, 0.0)},
    )
