"""Largest differences of our steps, examples and curvature to independently written ones and to other packages.

``docs/build_parity.py --measure`` writes them to ``docs/parity.csv``. The references are written from the papers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.attacks import PGD, generate
from toolkit_ext.landscape import Hessian, top_eigenpairs
from toolkit_ext.objectives import MARTLoss
from toolkit_ext.types import Batch
from toolkit_ext.updates import AMP, AWP, PlainRule

perturbed: Any = importlib.import_module("test_updates_perturbed_formula")
trades: Any = importlib.import_module("test_trades_authors")
hessians: Any = importlib.import_module("test_landscape_hessian")
pixels: Any = importlib.import_module("test_autoattack")
verdicts: Any = importlib.import_module("test_autoattack_precision")


def largest(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """The largest absolute difference between tensors that belong together."""
    return max(float((mine.detach() - other.detach()).abs().max()) for mine, other in zip(ours, theirs, strict=True))


def _perturbed(make: Callable[..., Any], reference: Callable[..., Any], cases: list[dict[str, Any]]) -> float:
    """Weights after four steps of SGD on quadratics, against the algorithm in NumPy."""
    found = []
    for seed, case in enumerate(cases):
        problem = perturbed.Quadratic(seed)
        weights = problem.parameters()
        optimizer = make(torch.optim.SGD(weights, lr=0.1), case)
        for _ in range(4):
            optimizer.step(problem.closure(weights))
        expected = perturbed.follow(problem, lambda t, p=problem, c=case: reference(p, t, c), 0.1, 4)
        found.append(largest(weights, map(torch.from_numpy, expected)))
    return max(found)


def amp() -> float:
    """Algorithm 1 of AMP, for one and three inner steps, inside the ball and on its sphere."""
    cases = [{"zeta": zeta, "eps": eps, "n": n} for n in (1, 3) for zeta, eps in ((1.0, 0.5), (0.01, 0.5), (0.3, 10.0))]
    return _perturbed(
        lambda base, c: AMP(base, epsilon=c["eps"], inner_lr=c["zeta"], inner_iter=c["n"]),
        lambda problem, theta, c: perturbed.amp_perturbation(problem, theta, c["zeta"], c["eps"], c["n"], False),
        cases,
    )


def awp() -> float:
    """Equations 8 to 10 of AWP, for one, three and four inner steps."""
    cases = [{"steps": steps, "lr": lr} for steps, lr in ((1, 0.2), (3, 0.2), (4, 0.3))]
    return _perturbed(
        lambda base, c: AWP(base, gamma=0.2, steps=c["steps"], inner_lr=c["lr"]),
        lambda problem, theta, c: perturbed.awp_perturbation(problem, theta, c["lr"], 0.2, c["steps"]),
        cases,
    )


def trades_steps() -> float:
    """Examples, weights and batch-norm statistics after three steps as published."""
    return float(max(trades.difference("unclamped", 2).values()))


def mart_steps() -> float:
    """Weights and batch-norm statistics after three steps of MART, its loss written out from equations 8 to 10."""
    ours, theirs = trades.network(), trades.network()
    update, optimizer = PlainRule().bind(ours, trades.optimizer_of(ours)), trades.optimizer_of(theirs)
    for number, (x, y) in enumerate(trades.batches()):
        torch.manual_seed(number)
        attacked = generate(PGD(eps=trades.EPS, alpha=trades.ALPHA, steps=trades.STEPS), ours, x, y)
        ours.train()
        batch = Batch(x, y, attacked)
        update.step(lambda batch=batch: MARTLoss(mart_lambda=5.0)(ours, batch, F.cross_entropy))  # type: ignore[misc]
        torch.manual_seed(number)
        own = _pgd(theirs, x, y)
        theirs.train()
        optimizer.zero_grad()
        torch.autograd.backward(_mart(theirs, x, own, y, 5.0))
        optimizer.step()
    return largest(ours.state_dict().values(), theirs.state_dict().values())


def _pgd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """PGD on the cross-entropy from a uniform start, in evaluation mode."""
    model.eval()
    attacked = (x + torch.empty_like(x).uniform_(-trades.EPS, trades.EPS)).clamp(0, 1)
    for _ in range(trades.STEPS):
        attacked.requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(attacked), y), attacked)
        stepped = attacked.detach() + trades.ALPHA * slope.sign()
        attacked = torch.maximum(torch.minimum(stepped, x + trades.EPS), x - trades.EPS).clamp(0, 1)
    return attacked


def _mart(model: nn.Module, x: Tensor, attacked: Tensor, y: Tensor, weight: float) -> Tensor:
    """BCE(p', y) + λ mean KL(p ‖ p') (1 − p_y), BCE = −log p'_y − log(1 − max_{k≠y} p'_k)."""
    p, q = model(x).softmax(1), model(attacked).softmax(1)  # batch norm sees the clean batch first
    of_label = F.one_hot(y, q.shape[1]).bool()
    rival = q.masked_fill(of_label, 0.0).amax(1)
    boosted = -q[of_label].log() - (1 - rival).log()
    divergence = (p * (p.log() - q.log())).sum(1)
    loss: Tensor = (boosted + weight * divergence * (1 - p[of_label])).mean()
    return loss


def hessian_dense() -> tuple[float, float]:
    """The five largest eigenvalues, and every column of the matrix, against a dense Hessian by ``torch.func``."""
    model, (x, y) = hessians.network(), hessians.images()
    ours = Hessian(model, x.double(), y)
    exact = hessians.exact.__wrapped__(model, (x.double(), y))
    columns = [ours @ row for row in torch.eye(ours.size, dtype=torch.float64)]
    expected = torch.linalg.eigvalsh(exact).flip(0)[:5]
    return largest([top_eigenpairs(ours, k=5, tol=1e-10).values], [expected]), largest(columns, exact)


def hessian_pyhessian() -> tuple[float, float]:
    """Largest eigenvalue and trace by the package ``pyhessian``, in float64.

    Its trace is an estimate from random signs, so its products with the unit vectors are summed instead.
    """
    package: Any = importlib.import_module("pyhessian")
    product = importlib.import_module("pyhessian.utils").hessian_vector_product
    model, (x, y) = hessians.network(), hessians.images()
    ours = Hessian(model, x.double(), y)
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        theirs = package.hessian(model, F.cross_entropy, data=(x.double(), y), cuda=False)
        (value,), _ = theirs.eigenvalues(maxIter=5000, tol=1e-14)
    finally:
        torch.set_default_dtype(torch.float32)
    traces = [0.0, 0.0]
    for number, unit in enumerate(torch.eye(ours.size, dtype=torch.float64)):
        parts = [part.view_as(w) for part, w in zip(unit.split([w.numel() for w in theirs.params]), theirs.params)]  # noqa: B905
        column = torch.cat([part.flatten() for part in product(theirs.gradsH, theirs.params, parts)])
        traces[0] += float((ours @ unit)[number])
        traces[1] += float(column[number])
    model.zero_grad()
    found = top_eigenpairs(ours, which="magnitude", tol=1e-10).values[0]
    return abs(float(found) - value), abs(traces[0] - traces[1])


def autoattack_pixels() -> tuple[float, float]:
    """``fp32-reference``: largest difference of a pixel, and images whose label differs, for 2 to 43 classes."""
    pixel, labels_apart = 0.0, 0
    for classes in (2, 3, 5, 10, 43):
        for norm in ("Linf", "L2"):
            torch.manual_seed(classes)
            model, x, y = pixels.case(classes, pixels.Net(classes, 300.0))
            found = pixels.ours(model, x, y, norm, "standard", 3, pixels.SHORT)
            inputs, labels = pixels.reference(model, x, y, norm, "standard", classes, 3, pixels.SHORT)
            ours, predictions = x.clone(), y.clone()
            ours[found.examples.indices] = found.examples.inputs
            predictions[found.examples.indices] = found.examples.predictions
            pixel = max(pixel, largest([ours], [inputs]))
            labels_apart += int((predictions != labels).sum())
    return pixel, float(labels_apart)


def autoattack_verdicts() -> float:
    """``fp32``: images whose verdict differs, of 240 on three backbones, in both norms, for 2 to 43 classes."""
    apart = 0
    for name in verdicts.BACKBONES:
        for norm in ("Linf", "L2"):
            for classes in verdicts.CLASSES:
                model, x, y = verdicts.case(name, classes)
                expected = verdicts.reference(model, x, y, norm, classes, verdicts.SHORT)
                apart += int((verdicts.ours(model, x, y, norm, "fp32") != expected).sum())
    return float(apart)
