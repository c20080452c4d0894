"""The loss terms of the objectives as functions of tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from toolkit_ext.errors import UserError
from toolkit_ext.types import AdversarialInputs, LossFn

_HALF = (torch.float16, torch.bfloat16)
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def single(logits: Tensor) -> Tensor:
    """``logits`` in single precision or better."""
    return logits.float() if logits.dtype in _HALF else logits


def log_probabilities(logits: Tensor) -> Tensor:
    """``log softmax`` of ``logits`` ``[N, K]``, in single precision or better: half would lose small divergences."""
    return F.log_softmax(logits, dim=1, dtype=torch.float32 if logits.dtype in _HALF else None)


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """``(1/N) Σ_i KL(p(x_i) ‖ p(x'_i))`` of logits ``[N, K]``; gradients flow through both."""
    return F.kl_div(log_probabilities(attacked), log_probabilities(clean), reduction="batchmean", log_target=True)


def boosted_cross_entropy(log_p: Tensor, y: Tensor) -> Tensor:
    """``−log p_y − log(1 − max_{k≠y} p_k)``, mean over examples; ``log_p`` is ``[N, K]`` with ``K ≥ 2``.

    ``log(1 − p_k)`` is the log-sum-exp of the other classes, so it needs no ``1e-4`` as in the authors'
    code, which bounds the term at 9.2 and removes the gradient of the worst examples.
    """
    rival = log_p.scatter(1, y[:, None], -torch.inf).argmax(dim=1, keepdim=True)
    others = log_p.scatter(1, rival, -torch.inf)
    return F.nll_loss(log_p, y) + (-torch.logsumexp(others, dim=1)).mean()


def squared_norms(gradients: Tensor, norm: str) -> Tensor:
    """``‖g_i‖_p²`` of each example ``[N]``; ``gradients`` is ``[N, ...]``. Differentiable at 0 for L2."""
    flat = single(gradients.flatten(1))
    if norm == "L2":
        return flat.square().sum(dim=1)
    size = flat.abs()
    return (size.sum(dim=1) if norm == "L1" else size.amax(dim=1)).square()


def penalised_loss(
    model: nn.Module, at: AdversarialInputs, y: Tensor, loss_fn: LossFn, norm: str
) -> tuple[Tensor, Tensor]:
    """The loss ``L`` on ``at`` and ``(1/N) Σ_i ‖∇_{x_i} L_i‖_p²``, from one forward pass.

    Raises:
        UserError: no gradient reaches the inputs, or the penalty overflowed in float16.
    """
    loss, gradients = _input_gradients(model, at, y, loss_fn, "gradient_penalty")
    penalty = squared_norms(gradients, norm).mean()
    _check_overflow(penalty, gradients, "gradient_penalty")
    return loss, penalty


def misalignment(model: nn.Module, x: Tensor, y: Tensor, loss_fn: LossFn, eps: float) -> Tensor:
    """``(1/N) Σ_i (1 − cos(∇L_i(x_i), ∇L_i(x_i + η_i)))``, ``η`` uniform in ``[−eps, eps]``; 0 where one is zero.

    Raises:
        UserError: no gradient reaches the inputs, or the penalty overflowed in float16.
    """
    points = (x, x + eps * (2 * torch.rand_like(x) - 1))
    found = [_input_gradients(model, AdversarialInputs(point), y, loss_fn, "grad_align")[1] for point in points]
    flat = [single(gradient.flatten(1)) for gradient in found]
    sizes = [gradient.norm(dim=1) for gradient in flat]
    # A zero gradient has no direction: it is replaced before the division, whose derivative would be NaN.
    usable = (sizes[0] > 0) & (sizes[1] > 0)
    product = torch.where(usable, sizes[0] * sizes[1], torch.ones_like(sizes[0]))
    cosine = (flat[0] * flat[1]).sum(dim=1) / product
    penalty = torch.where(usable, 1 - cosine, torch.zeros_like(cosine)).mean()
    _check_overflow(penalty, found[0], "grad_align")
    return penalty


def _input_gradients(
    model: nn.Module, at: AdversarialInputs, y: Tensor, loss_fn: LossFn, objective: str
) -> tuple[Tensor, Tensor]:
    """The mean loss on ``at`` and the gradient of the summed loss at its inputs, both with a graph."""
    inputs = at.inputs.detach().requires_grad_()
    # Fused attention kernels cannot be differentiated twice.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        loss = loss_fn(replace(at, inputs=inputs).logits(model), y)
        total, found = loss * len(y), None
        if total.requires_grad:
            (found,) = torch.autograd.grad(total, inputs, create_graph=True, allow_unused=True)
    if found is None:
        raise UserError(f"objective: '{objective}' needs logits that depend smoothly on the inputs; these do not")
    return loss, found


def _check_overflow(penalty: Tensor, gradients: Tensor, objective: str) -> None:
    kind = gradients.device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.float16
    if (half or gradients.dtype is torch.float16) and not torch.isfinite(penalty):
        raise UserError(f"precision: the gradient penalty overflowed in fp16; use fp32 or bf16-mixed with {objective}")


def nuclear_norm(matrix: Tensor) -> Tensor:
    """The sum of the singular values of ``[N, K]``, in single precision or better."""
    return torch.linalg.matrix_norm(single(matrix), "nuc")  # type: ignore[no-any-return]


def weight_matrices(model: nn.Module) -> list[Tensor]:
    """The trainable weights of linear and convolution layers, each as ``[groups, out / groups, in]``.

    ``in`` runs over input channels and kernel positions. Groups act on different channels, so each is one matrix.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _WEIGHTED)]
    pairs = [(layer.weight, getattr(layer, "groups", 1)) for layer in layers]
    return [weight.reshape(groups, len(weight) // groups, -1) for weight, groups in pairs if weight.requires_grad]


def orthogonality(matrices: list[Tensor], form: str = "rows") -> Tensor:
    """``Σ_W Σ_{jk} |W Wᵀ − I|_{jk}``, a scalar that can be differentiated once; 0 if all rows are orthonormal."""
    total = matrices[0].new_zeros(())
    for matrix in matrices:
        wide = matrix if form == "rows" or matrix.shape[1] <= matrix.shape[2] else matrix.transpose(1, 2)
        total = total + _Distance.apply(wide)  # type: ignore[no-untyped-call]
    return total


class _Distance(torch.autograd.Function):
    """``Σ_{jk} |W Wᵀ − I|_{jk}`` of ``[groups, rows, columns]`` with its gradient ``2 sign(W Wᵀ − I) W``.

    The sign is symmetric, so one product gives the gradient through both factors; autograd would use two.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        gram = matrix @ matrix.transpose(1, 2)
        gram.diagonal(dim1=1, dim2=2).sub_(1)
        ctx.save_for_backward(matrix, gram)
        return torch.linalg.vector_norm(gram, ord=1)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        matrix, gram = ctx.saved_tensors
        return (gram.sign() @ matrix).mul_(2 * gradient)  # type: ignore[no-any-return]
