"""Helpers for attacks of one's own on a defence: expectation over transformation (EOT) and BPDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from toolkit_ext.bounds import COUNT
from toolkit_ext.errors import UserError

__all__ = ["BPDA", "bpda", "eot_gradient"]

Function = Callable[[Tensor], Tensor]


def eot_gradient(loss: Function, x: Tensor, draws: int = 10) -> Tensor:
    """The mean input gradient over random draws, ``(1/K) Σ_k ∇_x L_k(x)``, an estimate of ``∇_x E L(x)``.

    Athalye, Engstrom, Ilyas, Kwok: Synthesizing robust adversarial examples. ICML 2018, section 2.1.

    Args:
        loss: Maps images to one number, the sum of their losses; each call draws the model's random numbers anew.
        x: Images ``[N, C, H, W]``.
        draws: Number K of draws.

    Returns:
        The gradient, ``[N, C, H, W]``.

    Raises:
        UserError: ``draws`` is no positive integer.

    Example:
        >>> import torch
        >>> eot_gradient(lambda x: ((x + torch.randn_like(x)) * 3).sum(), torch.zeros(1, 1, 1, 2), draws=5)
        tensor([[[[3., 3.]]]])
    """
    COUNT.check("draws", draws, int)
    total = torch.zeros_like(x)
    with torch.enable_grad():
        for _ in range(draws):
            at = x.detach().requires_grad_()
            total += torch.autograd.grad(loss(at), at)[0]
    return total / draws


class BPDA(nn.Module):
    """``layer`` in forward passes, and in backward passes the gradient of ``substitute``.

    The substitute ``g ≈ f`` of the layer ``f`` is by default the identity (the straight-through estimator).

    Athalye, Carlini, Wagner: Obfuscated gradients give a false sense of security. ICML 2018, section 4.1.

    Args:
        layer: A module or function with a useless gradient, such as one that rounds.
        substitute: A similar function with a good one, and outputs of the same shape.

    Raises:
        UserError: when it is called, if the shapes differ.

    Example:
        >>> import torch
        >>> x = torch.tensor([0.2, 1.8], requires_grad=True)
        >>> BPDA(torch.round)(x).sum().backward()
        >>> x.grad
        tensor([1., 1.])
    """

    def __init__(self, layer: Function, substitute: Function | None = None) -> None:
        super().__init__()
        self.layer, self.substitute = layer, substitute

    def forward(self, x: Tensor) -> Tensor:
        """What ``layer`` returns for ``x``."""
        with torch.no_grad():
            exact = self.layer(x)
        return _straight_through(exact, x if self.substitute is None else self.substitute(x))


@contextmanager
def bpda(model: nn.Module, layer: str, substitute: Function | None = None) -> Iterator[None]:
    """:class:`BPDA` for the module ``layer`` of ``model``, until the end and without changing the model.

    Args:
        model: The defended model.
        layer: Name of the module, as in ``model.named_modules()``.
        substitute: As for :class:`BPDA`.

    Raises:
        UserError: the model has no such module, or the shapes differ.
    """
    modules = dict(model.named_modules())
    if layer not in modules:
        raise UserError(f"layer: {layer!r} is not a module of the model; it has {', '.join(filter(None, modules))}")

    def replaced(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return _straight_through(output, inputs[0] if substitute is None else substitute(inputs[0]))

    hook = modules[layer].register_forward_hook(replaced)
    try:
        yield
    finally:
        hook.remove()


def _straight_through(exact: Tensor, smooth: Tensor) -> Tensor:
    """The value of ``exact``, to the bit, with the gradient of ``smooth``."""
    if exact.shape != smooth.shape:
        shapes = f"{list(smooth.shape)}; it must be that of the layer, {list(exact.shape)}"
        raise UserError(f"substitute: its outputs have the shape {shapes}")
    return exact.detach() + (smooth - smooth.detach())
