"""Re-check every success that an attack reports: norm, box, and label in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from toolkit_ext.evaluation.result import Flag
from toolkit_ext.evaluation.running.isolation import full_float32, preserved_rng
from toolkit_ext.tensors import row_norms
from toolkit_ext.types import Norm

_SHOWN = 10  # images that a warning names


def tolerance(norm: Norm, eps: float) -> float:
    """How far outside its ball an example may lie because of float32 rounding.

    Linf: 1e-6 (pixels are rounded to 6e-8). L2 and L1: 1e-6 + 1e-5 eps, as attacks divide by a rounded sum.
    """
    return 1e-6 if norm == "Linf" else 1e-6 + 1e-5 * eps


def distance(x: Tensor, inputs: Tensor, norm: Norm) -> Tensor:
    """Distances ``[N]`` between images, computed in float64 on the CPU."""
    return row_norms(inputs.cpu().double() - x.cpu().double(), norm)


@torch.no_grad()
def recheck(
    model: nn.Module, x: Tensor, inputs: Tensor, y: Tensor, norm: Norm, eps: float, *, label: bool = True
) -> tuple[Tensor, dict[str, int]]:
    """Which of ``inputs`` ``[N, C, H, W]`` are adversarial examples of ``x`` with labels ``y``, and why others are not.

    An example must lie within ``eps`` plus :func:`tolerance` of its image and within [0, 1] exactly, and ``model`` must
    misclassify it without TF32 or autocast. ``label=False``, for a randomised model, skips the forward pass.

    Returns:
        ``[N]`` bool on the CPU, and the number of failures by reason (``norm``, ``box``, ``label``).
    """
    if len(inputs) == 0:
        return torch.zeros(0, dtype=torch.bool), {}
    box = ((inputs >= 0) & (inputs <= 1)).flatten(1).all(dim=1).cpu()
    passed = {"norm": distance(x, inputs, norm) <= eps + tolerance(norm, eps), "box": box}
    if label:
        with preserved_rng(inputs.device), full_float32():
            passed["label"] = (model(inputs).max(dim=1)[1] != y).cpu()
    failed = {reason: int((~ok).sum()) for reason, ok in passed.items()}
    return torch.stack(list(passed.values())).all(dim=0), {reason: n for reason, n in failed.items() if n}


def rejected_flag(
    rejected: Mapping[str, int], attack: str, images: Sequence[int] = (), *, minimal: bool = False
) -> list[Flag]:
    """The flag for successes that failed the re-check, if any.

    Args:
        rejected: Number of failures by reason.
        attack: Whose they are.
        images: Positions of these images, as far as they are known.
        minimal: The attack has no radius; an example outside of the ball is then no false success.
    """
    if not rejected or (minimal and rejected.keys() == {"norm"}):
        return []
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items())
    message = f"reported successes that failed the re-check in float32 and are not counted, by reason: {reasons}"
    shown = [*map(str, images[:_SHOWN]), *(["..."] if len(images) > _SHOWN else [])]
    named = f" (images {', '.join(shown)})" if shown else ""
    return [Flag("recheck", message + named, attack, max(rejected.values()))]
