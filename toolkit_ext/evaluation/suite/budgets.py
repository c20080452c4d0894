"""A robustness curve: one evaluation for each radius, in growing order, each going on where the last one stopped."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.evaluate import evaluate
from toolkit_ext.evaluation.loading.art_models import Classifier
from toolkit_ext.evaluation.protocol import Protocol, load_protocol
from toolkit_ext.evaluation.result import Evaluation


def budgets(protocol: Protocol, eps: Sequence[float | str]) -> tuple[Protocol, ...]:
    """``protocol`` at each radius of ``eps``, in growing order; each is named ``<protocol>@<eps>``.

    Raises:
        UserError: no radius, one that is not allowed, or one given twice.
    """
    if not eps:
        raise UserError("eps: no radius is given; give one or several, such as 2/255,4/255,8/255")
    found = sorted((protocol.at(eps=value) for value in eps), key=lambda changed: changed.eps)
    for one, other in pairwise(found):
        if one.eps == other.eps:
            raise UserError(f"eps: {one.eps:.6g} is given twice; give each radius once")
    return tuple(found)


def evaluate_budgets(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    protocol: Protocol | str,
    eps: Sequence[float | str],
    *,
    state_dir: str | Path | None = None,
    save_examples: str | Path | None = None,
    **options: Any,
) -> tuple[Evaluation, ...]:
    """Evaluate ``model`` at every radius of ``eps``: a robustness curve, one :class:`Evaluation` a radius, growing.

    What an attack broke at a smaller radius counts as broken by it at every larger one and is not attacked again,
    because its adversarial example lies in the larger ball too. So a column can only fall along the curve, and it is
    at most what the column alone would give at that radius. A column whose ball does not grow (``pgd_l2`` of a Linf
    protocol) is run once.

    Args:
        model: As for :func:`evaluate`, as are ``x``, ``y`` and ``options``.
        x: Images.
        y: Labels.
        protocol: What to run; its own ``eps`` plays no part.
        eps: Radii, numbers or text such as ``8/255``, in any order.
        state_dir: Folder with a folder for each radius; an interrupted curve goes on with the batch it was at.
        save_examples: Path of a safetensors file; the name of each radius' protocol is added to its stem.

    Raises:
        UserError: radii as :func:`budgets` refuses them, and whatever :func:`evaluate` refuses.
    """
    protocol = protocol if isinstance(protocol, Protocol) else load_protocol(protocol)
    found: list[Evaluation] = []
    for at in budgets(protocol, eps):
        kept = None if save_examples is None else _beside(Path(save_examples), at)
        folder = None if state_dir is None else Path(state_dir) / at.name
        carry = found[-1] if found else None
        if found:
            # Measured once: one curve, one batch size.
            options["batch_size"] = found[0].settings["batch_size"]
        found.append(evaluate(model, x, y, at, state_dir=folder, save_examples=kept, carry=carry, **options))
    return tuple(found)


def _beside(path: Path, protocol: Protocol) -> Path:
    return path.with_name(f"{path.stem}@{protocol.name.rpartition('@')[2]}{path.suffix}")
