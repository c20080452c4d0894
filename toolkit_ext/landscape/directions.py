"""Directions and planes in weight space: random, filter-normalised, through checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.landscape.adversarial_loss import device_of, dtype_of, flat, size_of, split, trainable


def check_direction(model: nn.Module, direction: Tensor) -> Tensor:
    """``direction`` ``[n]`` scaled to length 1, on the device and in the type of the weights.

    Raises:
        UserError: a wrong number of entries, or a length that is zero or not finite.
    """
    if direction.shape != (n := size_of(model),):
        raise UserError(f"direction: shape {list(direction.shape)} is not allowed; the model has {n} weights")
    length = float(direction.double().norm())
    if not 0 < length < float("inf"):
        raise UserError(f"direction: a length of {length} is not allowed; it must be finite and above 0")
    return (direction.double() / length).to(device_of(model), dtype_of(model))


def random_direction(model: nn.Module, *, seed: int = 0) -> Tensor:
    """A direction ``[n]`` uniform on the unit sphere of the trainable weights; zero at frozen ones."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(size_of(model), generator=generator, dtype=torch.float64)
    return check_direction(model, _without_frozen(model, drawn))


def _without_frozen(model: nn.Module, direction: Tensor) -> Tensor:
    """``direction`` ``[n]`` with zeros at the weights that training does not move."""
    moved = {id(weight) for weight in trainable(model)}
    parts = zip(split(model, direction), model.parameters(), strict=True)
    return torch.cat([part.flatten() * (id(weight) in moved) for part, weight in parts])


def filter_normalised(model: nn.Module, *, seed: int = 0) -> Tensor:
    """A random direction ``[n]`` whose filters have the norms of the model's filters; zero for biases and norm layers.

    Frozen weights are zero in it too.

    A filter is a slice along the first dimension of a weight with two or more. Rescaling the weights of a network with
    ReLU and batch norm does not change its function; filter normalisation makes the surface independent of it too.

    Li, Xu, Taylor, Studer, Goldstein: Visualizing the loss landscape of neural nets. NeurIPS 2018, section 4.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.cat([_like(weight.detach(), generator).flatten() for weight in model.parameters()])
    return _without_frozen(model, drawn)


def _like(weight: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight)
    if weight.ndim < 2:
        return torch.zeros_like(weight)
    lengths, own = (tensor.flatten(1).norm(dim=1) for tensor in (drawn, weight))
    scaled: Tensor = drawn * (own / lengths.clamp_min(1e-12)).view(-1, *[1] * (weight.ndim - 1))
    return scaled


@dataclass(frozen=True)
class Plane:
    """A line or a plane of weights: ``centre + a first (+ b second)``, all ``[n]``.

    ``marks`` are named points (checkpoints) with their coordinates.
    """

    centre: Tensor
    first: Tensor
    second: Tensor | None = None
    marks: tuple[tuple[str, float, float], ...] = ()

    def at(self, a: float, b: float = 0.0) -> Tensor:
        """The weights ``[n]`` at coordinates ``(a, b)``."""
        line = self.centre + a * self.first
        return line if self.second is None else line + b * self.second


def check_same_architecture(*models: nn.Module) -> None:
    """Raise :class:`UserError` that names the first weight in which ``models`` differ in name or shape."""
    shapes = [[(name, list(weight.shape)) for name, weight in model.named_parameters()] for model in models]
    for number, other in enumerate(shapes[1:], start=2):
        refusal = f"checkpoints: the first and number {number} are of different architectures"
        for mine, theirs in zip(shapes[0], other, strict=False):
            if mine != theirs:
                raise UserError(f"{refusal}: {mine[0]} {mine[1]} there, {theirs[0]} {theirs[1]} here")
        if len(shapes[0]) != len(other):
            raise UserError(f"{refusal}: {len(shapes[0])} and {len(other)} weight tensors")


def through(first: nn.Module, second: nn.Module, third: nn.Module) -> Plane:
    """The plane through three checkpoints of one architecture (Garipov et al., NeurIPS 2018, appendix A).

    Its axes are ``u = θ_2 − θ_1`` and ``θ_3 − θ_1`` minus its projection on u, scaled to the length of u. So the first
    checkpoint is at (0, 0) and the second at (1, 0).

    Raises:
        UserError: different architectures, or three points on one line.
    """
    check_same_architecture(first, second, third)
    centre, across, up = flat(first), flat(second) - flat(first), flat(third) - flat(first)
    length = float(across.double().norm())
    if length == 0:
        raise UserError("checkpoints: the first and the second have the same weights; a plane needs three")
    along = float(up.double() @ across.double()) / length**2
    up = up - along * across
    height = float(up.double().norm())
    if height <= 1e-6 * length:
        raise UserError("checkpoints: the three lie on one line; a plane needs three that do not")
    marks = (("1", 0.0, 0.0), ("2", 1.0, 0.0), ("3", along, height / length))
    return Plane(centre, across, up * (length / height), marks)
