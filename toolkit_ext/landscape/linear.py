r"""The linear classifier, whose adversarial landscape is known in closed form.

Logits are :math:`W x` with rows :math:`w_1, \dots, w_K`. The loss of one example is
:math:`g(x, W) = \log(1 + \sum_{j \ne y} e^{(w_j - w_y) \cdot x})`, the adversarial loss
:math:`g_\epsilon(x, W) = \max_{x' \in S_\epsilon(x)} g(x', W)` over the Linf ball
:math:`S_\epsilon(x) = \{x' : \|x' - x\|_\infty \le \epsilon\}`, which is *not* clipped to [0, 1], as in the paper.

**Version space** (equation 6): :math:`V_\epsilon = \{W : (w_i - w_y) \cdot x' \le 0\ \forall i, x'\}`. The dual norm of
Linf is L1, so :math:`\max_{x'} (w_i - w_y) \cdot x' = (w_i - w_y) \cdot x + \epsilon \|w_i - w_y\|_1`, and

.. math:: W \in V_\epsilon \iff \epsilon \le \rho(W) := \min_{w_i \ne w_y} \frac{-(w_i - w_y)\cdot x}{\|w_i-w_y\|_1}

(:func:`version_radius`). The version space shrinks as eps grows.

**Trapped directions** (equation 8): :math:`T_\epsilon = \{W : 0 \in \arg\min_\gamma g_\epsilon(x, \gamma W)\}`.
:math:`\gamma \mapsto g_\epsilon(x, \gamma W)` is a maximum of convex functions, so :math:`\gamma = 0` is a minimum if
and only if :math:`\partial_- \le 0 \le \partial_+` there. At :math:`\gamma = 0` every :math:`x'` has the loss
:math:`\log K`, so every one is a maximiser. By Danskin's theorem :math:`\partial_+` and :math:`\partial_-` are the
largest and the smallest of their derivatives :math:`\frac1K \sum_j (w_j - w_y) \cdot x' = (\bar w - w_y) \cdot x'`,
where :math:`\bar w = \frac1K \sum_j w_j`. So
:math:`\partial_\pm = (\bar w - w_y) \cdot x \pm \epsilon \|\bar w - w_y\|_1`, and

.. math:: W \in T_\epsilon \iff \epsilon \ge \tau(W) := \frac{|(\bar w - w_y) \cdot x|}{\|\bar w - w_y\|_1}

(:func:`trap_radius`). The set grows with eps. Since :math:`|v \cdot x| \le \|v\|_1 \|x\|_\infty` with equality for
some v, it contains every direction from :math:`\bar\epsilon = \|x\|_\infty` on.

**For the mean loss over a data set**, the version space is the intersection of those of the examples, and the
one-sided derivatives at 0 are means, so
:math:`\tau = |\sum_n v_{y_n} \cdot x_n| / \sum_n \|v_{y_n}\|_1` with :math:`v_k = \bar w - w_k`. Its maximum over all W
separates by pixel p. With :math:`N_k` examples of class k and their sum :math:`s_k` it is a linear programme over
:math:`\{\sum_k N_k |v_k| \le 1, \sum_k v_k = 0\}`, whose vertices have two non-zero entries
:math:`\pm 1 / (N_i + N_j)`, so

.. math:: \bar\epsilon = \max_p \max_{i, j} \frac{|s_i[p] - s_j[p]|}{N_i + N_j}

(:func:`critical_eps`). From there on the constant classifier :math:`W = 0` minimises the adversarial loss.

Liu, Salzmann, Lin, Tomioka, Süsstrunk: On the loss landscape of adversarial training. NeurIPS 2020, section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit_ext.data import check_labels
from toolkit_ext.errors import UserError, check_positive


def _checked(weights: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if weights.ndim < 2 or weights.shape[-2] < 2:
        raise UserError(f"weights: shape {list(weights.shape)} is not allowed; give [..., K, m] with K at least 2")
    x = x.flatten(1).to(weights)
    if x.shape[1] != weights.shape[-1]:
        raise UserError(f"examples: {x.shape[1]} values each; the weights have {weights.shape[-1]} columns")
    return weights, x, check_labels(y, len(x), weights.shape[-2]).to(weights.device)


def version_radius(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``ρ(W)`` of each example, the largest eps for which W is in its version space; negative if it never is.

    Args:
        weights: ``[..., K, m]``.
        x: ``[N, m]``, or images that flatten to it.
        y: Index labels ``[N]``.

    Returns:
        ``[..., N]``; infinite where all rows are equal.
    """
    weights, x, y = _checked(weights, x, y)
    norms = (weights.unsqueeze(-2) - weights.unsqueeze(-3)).abs().sum(-1)[..., y, :]  # [..., N, K]
    logits = x @ weights.transpose(-1, -2)  # [..., N, K]
    own = logits.gather(-1, y.expand(logits.shape[:-1]).unsqueeze(-1))
    return torch.where(norms > 0, (own - logits) / norms, torch.inf).min(dim=-1).values


def _mean_rows(weights: Tensor) -> Tensor:
    """``v_k = w̄ − w_k``, ``[..., K, m]``."""
    return weights.mean(dim=-2, keepdim=True) - weights


def trap_radius(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``τ(W)`` of each example, ``[..., N]``, from which W is trapped. Arguments as for :func:`version_radius`."""
    weights, x, y = _checked(weights, x, y)
    rows = _mean_rows(weights)
    products = (x @ rows.transpose(-1, -2)).gather(-1, y.expand((*rows.shape[:-2], len(y))).unsqueeze(-1)).squeeze(-1)
    norms = rows.abs().sum(-1)[..., y]
    return torch.where(norms > 0, products.abs() / norms, 0)


def dataset_trap_radius(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``τ(W)`` of the mean loss over all examples, ``[...]``. Arguments as for :func:`version_radius`."""
    weights, x, y = _checked(weights, x, y)
    rows = _mean_rows(weights)
    sums, counts = class_sums(x, y, rows.shape[-2])
    products, norms = (rows * sums).sum((-1, -2)), (rows.abs().sum(-1) * counts).sum(-1)
    return torch.where(norms > 0, products.abs() / norms, 0)


def class_sums(x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Sum of the examples ``[K, m]`` and number of examples ``[K]`` of each class."""
    members = torch.nn.functional.one_hot(y, classes).to(x)
    return members.T @ x, members.sum(0)


def critical_eps(x: Tensor, y: Tensor, classes: int) -> float:
    """``ε̄`` from which every direction is trapped for the mean loss over ``x`` ``[N, m]``; ``‖x‖_∞`` if N = 1."""
    x, y = x.flatten(1).double(), check_labels(y, len(x), classes)
    sums, counts = class_sums(x, y, classes)
    differences = (sums[:, None] - sums[None]).abs().amax(-1)
    pairs = counts[:, None] + counts[None]
    return float(torch.where(pairs > 0, differences / pairs.clamp_min(1), 0).max())


def in_version_space(weights: Tensor, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Whether ``weights`` ``[..., K, m]`` are in each example's ``V_ε``, bool ``[..., N]``."""
    return version_radius(weights, x, y) >= check_positive("eps", eps, zero=True)


def is_trapped(weights: Tensor, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Whether ``weights`` ``[..., K, m]`` are in each example's ``T_ε``, bool ``[..., N]``."""
    return trap_radius(weights, x, y) <= check_positive("eps", eps, zero=True)


def random_directions(count: int, classes: int, size: int, *, seed: int = 0) -> Tensor:
    """Directions ``[count, K, m]`` with independent normal entries."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, classes, size, generator=generator, dtype=torch.float64)


def logistic(theta: Tensor, x: float = 1.0, eps: float = 0.0) -> Tensor:
    """The one-dimensional case: ``max_{|x' − x| ≤ ε} log(1 + exp(θx')) = log(1 + exp(θx + ε|θ|))``."""
    return torch.nn.functional.softplus(theta * x + eps * theta.abs())
