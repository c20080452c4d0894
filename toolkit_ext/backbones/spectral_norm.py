"""Spectral normalisation: divide every linear and convolution weight by its largest singular value.

``W̄ = W / σ(W)`` with ``σ(A) = max_{h ≠ 0} ‖A h‖₂ / ‖h‖₂`` (Miyato et al.: Spectral normalization for generative
adversarial networks. ICLR 2018), as torch parametrisations: gradients of the trained weight ``W`` flow through ``σ``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from toolkit_ext.backbones.building import dry_forward
from toolkit_ext.errors import UserError, check_choice

ConvNorm = Literal["reshaped", "operator"]
CONV_NORMS: tuple[ConvNorm, ...] = get_args(ConvNorm)

_CONVOLUTIONS: dict[type, Callable[..., Tensor]] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
_LAYERS: tuple[type[nn.Module], ...] = (nn.Linear, *_CONVOLUTIONS)
_FIRST_ITERATIONS = 30


class ConvOperatorNorm(nn.Module):
    """Divides a convolution's weight by the norm of the convolution as a linear map of inputs of one size.

    ``σ`` is the largest singular value of ``h ↦ W * h`` from ``[in, H, W]`` to ``[out, H', W']`` with the layer's own
    padding, stride, dilation and groups. Power iteration finds it: ``u ← A v / ‖A v‖``, ``v ← Aᵀu / ‖Aᵀu‖``, where
    ``Aᵀ`` is the transposed convolution; ``n_power_iterations`` per pass in training mode, none in evaluation mode.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, layer: nn.Module, input_size: torch.Size, n_power_iterations: int = 1) -> None:
        super().__init__()
        self.n_power_iterations = n_power_iterations
        self._convolve = _CONVOLUTIONS[type(layer)]
        self._options, self._pad = _geometry(layer)
        weight = layer.get_parameter("weight").detach()
        start = weight.new_empty(1, *input_size).normal_()
        self.register_buffer("_v", start / torch.linalg.vector_norm(start))
        self.register_buffer("_u", torch.zeros_like(self._apply_to(start, weight)))
        self._power_iterations(weight, _FIRST_ITERATIONS)

    def forward(self, weight: Tensor) -> Tensor:
        """``W / σ(W)``, of the shape of ``weight``."""
        with torch.autocast(weight.device.type, enabled=False):
            if self.training:
                self._power_iterations(weight.detach(), self.n_power_iterations)
            # Copies, because backward needs these vectors and the next pass changes them.
            u, v = self._u.clone(), self._v.clone()
            return weight / (u * self._apply_to(v, weight)).sum()

    def _apply_to(self, v: Tensor, weight: Tensor) -> Tensor:
        return self._convolve(F.pad(v, **self._pad) if self._pad else v, weight, **self._options)

    def _power_iterations(self, weight: Tensor, iterations: int) -> None:
        for _ in range(iterations):
            with torch.enable_grad():
                v = self._v.clone().requires_grad_()
                image = self._apply_to(v, weight)
            u = image.detach() / torch.linalg.vector_norm(image.detach())
            # The map is linear, so its vector-Jacobian product is its transpose.
            (back,) = torch.autograd.grad(image, v, u)
            self._u.copy_(u)
            self._v.copy_(back / torch.linalg.vector_norm(back))


def _geometry(layer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    options = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
    if layer.padding_mode == "zeros":
        return {**options, "padding": layer.padding}, {}
    return options, {"pad": layer._reversed_padding_repeated_twice, "mode": layer.padding_mode}


def _is_normalised(layer: Any) -> bool:
    steps = layer.parametrizations["weight"] if parametrize.is_parametrized(layer, "weight") else ()
    return any(isinstance(step, parametrizations._SpectralNorm | ConvOperatorNorm) for step in steps)


def _layers_to_normalise(model: nn.Module) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {name: part for name, part in model.named_modules() if isinstance(part, _LAYERS)}
    if not found:
        raise UserError("spectral: spectral normalisation needs linear or convolution layers; the model has none")
    fresh = {name: layer for name, layer in found.items() if not _is_normalised(layer)}
    for name, layer in fresh.items():
        if "weight" not in layer._parameters and not parametrize.is_parametrized(layer, "weight"):
            raise UserError(f"spectral: a hook computes the weight of layer {name!r} already; use spectral none")
        assert isinstance(layer.weight, Tensor)
        if not torch.any(layer.weight):
            raise UserError(f"spectral: the weight of layer {name!r} is all zeros, which cannot be normalised")
    return fresh


def spectral_norm(
    model: nn.Module,
    *,
    n_power_iterations: int = 1,
    conv: ConvNorm = "reshaped",
    input_size: tuple[int, ...] | None = None,
) -> nn.Module:
    """Normalise, in place, the weight of every linear and convolution layer of ``model``; returns ``model``.

    Linear weights use ``torch.nn.utils.parametrizations.spectral_norm``. With ``conv="reshaped"`` convolutions do too:
    ``σ`` of the ``[out, in · kernel]`` matrix differs from the norm of the convolution by a factor up to the square
    root of the number of kernel positions. ``conv="operator"`` uses that norm (:class:`ConvOperatorNorm`) at the
    largest input that the layer gets in a forward pass on ``input_size``, ``(C, H, W)``, by default the model's
    ``in_chans`` and ``image_size``.

    Each training step updates ``σ`` by ``n_power_iterations``. While weights change fast it lags: the norm of a layer
    exceeds 1 by up to 10% with 1 iteration, 1% with 10. Not normalised are layers that already are, transposed
    convolutions, and fused attention weights (``in_proj_weight`` of ``nn.MultiheadAttention``).

    Raises:
        UserError: no such layers, an all-zero weight, or with ``conv="operator"`` an unknown input size, a layer
            that the forward pass does not reach, or one that is not a plain convolution.
    """
    check_choice("spectral", conv, CONV_NORMS)
    if n_power_iterations < 1:
        raise UserError(f"n_power_iterations: {n_power_iterations} is not allowed; at least 1")
    layers = _layers_to_normalise(model)
    convolutions = {name: layer for name, layer in layers.items() if not isinstance(layer, nn.Linear)}
    sizes = _input_sizes(model, convolutions, input_size) if conv == "operator" and convolutions else {}
    for name, layer in layers.items():
        if name in sizes:
            norm = ConvOperatorNorm(layer, sizes[name], n_power_iterations)
            parametrize.register_parametrization(layer, "weight", norm)
        else:
            parametrizations.spectral_norm(layer, "weight", n_power_iterations)
    return model


def bake(model: nn.Module) -> nn.Module:
    """Undo :func:`spectral_norm` in place; each layer keeps its weight of evaluation mode."""
    for layer in model.modules():
        if _is_normalised(layer):
            layer.parametrizations.eval()  # type: ignore[operator, union-attr]
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return model


def _input_sizes(
    model: nn.Module, convolutions: dict[str, nn.Module], input_size: tuple[int, ...] | None
) -> dict[str, torch.Size]:
    for name, layer in convolutions.items():
        if type(layer) not in _CONVOLUTIONS:
            raise UserError(f"spectral: 'operator' cannot read layer {name!r} ({type(layer).__name__}); use reshaped")
    sizes: dict[str, torch.Size] = {}

    def note(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        size = inputs[0].shape[1:]
        sizes[name] = max(sizes.get(name, size), size, key=torch.Size.numel)

    with ExitStack() as hooks:
        for name, layer in convolutions.items():
            hooks.enter_context(layer.register_forward_pre_hook(partial(note, name)))
        dry_forward(model, input_size or _own_shape(model))
    for name in convolutions.keys() - sizes.keys():
        raise UserError(f"spectral: the forward pass does not reach layer {name!r}; use reshaped")
    return sizes


def _own_shape(model: nn.Module) -> tuple[int, ...]:
    channels, size = getattr(model, "in_chans", None), getattr(model, "image_size", None)
    if channels is None or size is None:
        raise UserError("spectral: 'operator' needs the input size of the model; give input_size=(C, H, W)")
    return channels, *((size, size) if isinstance(size, int) else size)
