"""How far the gradient of the adversarial loss jumps as the weights move: Liu et al., 2020, equations 11 and 12."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolkit_ext.landscape.adversarial_loss import (
    adversarial_examples,
    checked,
    evaluating,
    flat,
    move_to,
    restored,
    trainable,
    unit,
)
from toolkit_ext.landscape.directions import check_direction
from toolkit_ext.types import Attack

_EXAMPLES = 64  # whose own gradients estimate L_θx


def weight_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """``∇_θ`` of the mean cross-entropy of ``x``, flat, in evaluation mode."""
    weights = trainable(model)
    with evaluating(model, weights=weights), torch.enable_grad():
        parts = torch.autograd.grad(cross_entropy(model(unit(x)), y), weights)
    return torch.cat([part.flatten() for part in parts])


def input_lipschitz(model: nn.Module, x: Tensor, y: Tensor, made: Tensor) -> float:
    """A lower bound of ``L_θx`` of equation 10, from the perturbed images ``made``; 0 if none is perturbed.

    The largest ``‖∇_θ g(x'_i, θ) − ∇_θ g(x_i, θ)‖₂ / ‖x'_i − x_i‖_∞`` over the images.
    """
    found = 0.0
    clean = unit(x)
    for i in range(len(y)):
        here, there, label = clean[i : i + 1], made[i : i + 1], y[i : i + 1]
        if (moved := float((there - here).abs().max())) > 0:
            change = weight_gradient(model, there, label) - weight_gradient(model, here, label)
            found = max(found, float(change.norm()) / moved)
    return found


def gradient_jumps(
    model: nn.Module,
    attack: Attack,
    x: Any,
    y: Any,
    direction: Tensor,
    distances: Sequence[float],
    *,
    eps: float,
    seed: int = 0,
) -> dict[str, float]:
    """How the gradient of the adversarial loss changes between ``θ − av`` and ``θ + av``, against equation 11::

        ‖∇_θ g_ε(x, θ₁) − ∇_θ g_ε(x, θ₂)‖ ≤ L_θθ ‖θ₁ − θ₂‖ + 2 ε L_θx

    The constants are estimated from below, on the same images, so that the measured bound is tighter than the true one:
    ``L_θθ`` by the change with the examples of θ held fixed, ``L_θx`` by :func:`input_lipschitz`. Both sides are
    attacked from the same random starts. The weights are restored bit for bit.

    Args:
        model: The model at θ.
        attack: Makes the adversarial examples.
        x, y: Images ``[N, C, H, W]`` and labels ``[N]``.
        direction: v ``[n]``; scaled to length 1.
        distances: The values of a, above 0.
        eps: The budget ε, in Linf.
        seed: Seed of the random starts.

    Returns:
        For every a ``jump_<a>``, with its own examples on each side, and ``fixed_<a>``, with those of θ; ``ratio``, the
        largest jump over its bound; ``lipschitz_weights`` and ``lipschitz_inputs``, the constants.

    References:
        Liu, Salzmann, Lin, Tomioka, Süsstrunk: On the loss landscape of adversarial training. NeurIPS 2020.
    """
    x, y = checked(model, x, y)
    direction = check_direction(model, direction)
    found: dict[str, float] = {}
    with restored(model):
        centre = flat(model)
        made = adversarial_examples(model, attack, x, y, seed=seed)
        inputs = input_lipschitz(model, x[:_EXAMPLES], y[:_EXAMPLES], made[:_EXAMPLES])
        for a in distances:
            own, fixed = [], []
            for sign in (1, -1):
                move_to(model, centre + sign * a * direction)
                own.append(weight_gradient(model, adversarial_examples(model, attack, x, y, seed=seed), y))
                fixed.append(weight_gradient(model, made, y))
            found |= {f"jump_{a:g}": float((own[0] - own[1]).norm())}
            found |= {f"fixed_{a:g}": float((fixed[0] - fixed[1]).norm())}
    weights = max(found[f"fixed_{a:g}"] / (2 * a) for a in distances)
    ratio = max(found[f"jump_{a:g}"] / (2 * a * weights + 2 * eps * inputs) for a in distances)
    return {**found, "ratio": ratio, "lipschitz_weights": weights, "lipschitz_inputs": inputs}
