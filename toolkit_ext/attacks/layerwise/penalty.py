"""The penalty and the ball of one layer's perturbation, in units of the layer's budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit_ext.types import Norm


def per_example(values: Tensor, dim: int) -> Tensor:
    """``values`` ``[N]``, shaped to multiply a tensor ``[N, ...]`` of ``dim`` dimensions."""
    return values.view(-1, *[1] * (dim - 1))


def lengths(z: Tensor) -> Tensor:
    """Euclidean length of every example of ``z`` ``[N, ...]``, ``[N]``."""
    # flatten() would copy a tensor in channels last.
    return torch.linalg.vector_norm(z, dim=tuple(range(1, z.dim())))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Penalty:
    """``ρ(z) = −λ ‖z − Π(z)‖²`` for every example of one layer, whose perturbation is ``d = r z``.

    The unit ``r`` is the Euclidean radius of the budget ``ε``: ``ε`` in L2, ``ε √D`` in Linf. In this unit the ball has
    radius 1 in L2 and ``1/√D`` in Linf, and ``λ`` is the loss per squared budget in every layer.

    With ``ball``, ``Π`` projects onto the ball: ``r ‖z − Π(z)‖ = ‖relu(g(d))‖`` with ``g(d) = |d| − ε`` elementwise
    (Linf) or ``‖d‖ − ε`` (L2), the relaxed indicator. Otherwise ``Π(z) = 0``: the penalty is ``−(λ / r²) ‖d‖²``.

    Attributes:
        shape: shape of ``z``, ``[N, ...]`` with ``D`` numbers per example.
        norm: norm of the ball.
        weight: ``λ``.
        ball: the relaxed indicator instead of the quadratic penalty.
        box: bounds of ``z`` for pixels in [0, 1]; leaving them is penalised like leaving the ball.
        memory_format: that of the layer's output.
    """

    shape: torch.Size
    norm: Norm
    weight: float
    ball: bool
    box: tuple[Tensor, Tensor] | None = None
    memory_format: torch.memory_format = torch.contiguous_format

    @property
    def bound(self) -> float:
        """Radius of the ball in its norm."""
        return 1 / math.sqrt(self.shape[1:].numel()) if self.norm == "Linf" else 1.0

    @property
    def quadratic(self) -> bool:
        """Whether the penalty is ``−λ ‖z‖²``."""
        return not self.ball and self.box is None

    def flat(self, z: Tensor) -> Tensor:
        """``z`` as ``[N, D]``, in the order of ``memory_format``."""
        return (z.permute(0, 2, 3, 1) if self.memory_format == torch.channels_last else z).flatten(1)

    def shaped(self, flat: Tensor) -> Tensor:
        """A view of ``flat`` ``[N, D]`` in the layer's shape, the inverse of :meth:`flat`."""
        if self.memory_format == torch.channels_last:
            n, channels, height, width = self.shape
            return flat.view(n, height, width, channels).permute(0, 3, 1, 2)
        return flat.view(self.shape)

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``ρ`` ``[N]`` and ``z − Π(z)``, which times ``−2λ`` is the gradient."""
        outside = z - self.project(z) if self.ball else z
        total = lengths(outside) ** 2
        if self.box is not None:
            beyond = z - torch.clamp(z, *self.box)
            total, outside = total + lengths(beyond) ** 2, outside + beyond
        return -self.weight * total, outside

    def project(self, z: Tensor) -> Tensor:
        """The point of the ball nearest to ``z``; ``z`` if there is no ball."""
        if not self.ball:
            return z
        if self.norm == "Linf":
            return z.clamp(-self.bound, self.bound)
        return z / per_example(lengths(z).clamp_min(1), z.dim())

    def feasible(self, z: Tensor) -> Tensor:
        """``z`` projected onto the ball and then into the box, which only shortens it."""
        z = self.project(z)
        return z if self.box is None else torch.clamp(z, *self.box)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of steepest ascent in the ball: ``sign g / √D`` (Linf) or ``g / ‖g‖`` (L2)."""
        if self.norm == "Linf":
            return gradient.sign() * self.bound
        return gradient / per_example(lengths(gradient).clamp_min(torch.finfo(gradient.dtype).tiny), gradient.dim())

    def random(self, like: Tensor) -> Tensor:
        """A random point of the ball: uniform in Linf, of uniform direction and length in L2."""
        z = like.new_empty(self.shape)
        if self.norm == "Linf":
            return z.uniform_(-self.bound, self.bound)
        return self.steepest(z.normal_()) * per_example(torch.rand(len(z), dtype=z.dtype, device=z.device), z.dim())
