"""The gradient and the orthogonality penalty against closed forms, loops and finite differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.objectives import GradientPenalty, Orthogonal
from toolkit_ext.objectives.terms import orthogonality
from toolkit_ext.types import AdversarialInputs, Batch

ORDERS = {"L1": 1, "L2": 2, "Linf": np.inf}


def linear_model(classes: int = 3, pixels: int = 8) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double()


def make_batch(n: int = 5, classes: int = 3) -> Batch:
    x, moved = torch.rand(2, n, 2, 2, 2, dtype=torch.float64)
    return Batch(x, torch.randint(0, classes, (n,)), AdversarialInputs(moved))


@pytest.mark.parametrize("where", ["clean", "adversarial"])
@pytest.mark.parametrize("norm", ["L1", "L2", "Linf"])
def test_gradient_penalty_of_a_linear_model_has_a_closed_form(norm: str, where: str) -> None:
    torch.manual_seed(0)
    model, batch = linear_model(), make_batch()
    x = batch.x if where == "clean" else batch.perturbed.inputs
    p, weight = model(x).softmax(dim=1).detach().numpy(), model[1].weight.detach().numpy()  # type: ignore[index]
    rows = (p - np.eye(3)[batch.y.numpy()]) @ weight
    expected = np.mean([np.linalg.norm(row, ORDERS[norm]) ** 2 for row in rows])
    objective = GradientPenalty(penalty_norm=norm, penalty_on=where, penalty_lambda=0.3)  # type: ignore[arg-type]
    losses = objective(model, batch, F.cross_entropy)
    assert losses.terms["penalty"].item() == pytest.approx(expected)
    base = F.cross_entropy(model(batch.perturbed.inputs), batch.y)
    assert losses.total.item() == pytest.approx(base.item() + 0.3 * expected)


@pytest.mark.parametrize("base", ["clean", "adversarial", "clean_adversarial"])
@pytest.mark.parametrize("where", ["clean", "adversarial"])
def test_every_base_loss_goes_with_every_place_of_the_penalty(base: str, where: str) -> None:
    torch.manual_seed(0)
    model, batch = linear_model(), make_batch()
    objective = GradientPenalty(penalty_base=base, penalty_on=where)  # type: ignore[arg-type]
    terms = objective(model, batch, F.cross_entropy).terms
    assert tuple(terms) == objective.terms
    for name, x in (("clean", batch.x), ("adversarial", batch.perturbed.inputs)):
        if name in terms:
            assert terms[name].item() == pytest.approx(F.cross_entropy(model(x), batch.y).item())


@pytest.mark.parametrize("norm", ["L1", "L2", "Linf"])
def test_double_back_propagation_passes_gradcheck(norm: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(3, 3)).double()
    batch = make_batch(3)
    objective = GradientPenalty(penalty_norm=norm)  # type: ignore[arg-type]
    names = [name for name, _ in model.named_parameters()]

    def penalty(*weights: Tensor) -> Tensor:
        def forward(x: Tensor) -> Tensor:
            logits: Tensor = torch.func.functional_call(model, dict(zip(names, weights, strict=True)), (x,))
            return logits

        return objective(_Function(forward), batch, F.cross_entropy).terms["penalty"]

    weights = [weight.detach().clone().requires_grad_() for weight in model.parameters()]
    assert torch.autograd.gradcheck(penalty, weights)


class _Function(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.function(x)  # type: ignore[operator]
        return logits


def test_gradient_penalty_is_the_mean_of_the_penalties_of_single_examples() -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3)).double(), make_batch()
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.2)
    whole = GradientPenalty()(model, batch, smoothed).terms["penalty"].item()
    x, y = batch.perturbed.inputs, batch.y
    alone = [
        GradientPenalty()(model, Batch(x[[i]], y[[i]], AdversarialInputs(x[[i]])), smoothed).terms["penalty"].item()
        for i in range(len(y))
    ]
    assert whole == pytest.approx(np.mean(alone))
    repeated = Batch(x.repeat(3, 1, 1, 1), y.repeat(3), AdversarialInputs(x.repeat(3, 1, 1, 1)))
    assert GradientPenalty()(model, repeated, smoothed).terms["penalty"].item() == pytest.approx(whole)


def test_a_vision_transformer_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, in_chans=1, **size)
    assert model.blocks[0].attn.fused_attn
    x = torch.rand(2, 1, 8, 8)
    losses = GradientPenalty()(model, Batch(x, torch.tensor([0, 1]), AdversarialInputs(x)), F.cross_entropy)
    torch.autograd.backward(losses.terms["penalty"])
    gradient = model.blocks[0].attn.qkv.weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def loop_sum(weight: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    rows, total = weight.reshape(len(weight), -1), 0.0
    for j, k in itertools.product(range(len(rows)), repeat=2):
        total += abs(float(rows[j] @ rows[k]) - (1.0 if j == k else 0.0))
    return total


def test_orthogonality_is_the_sum_over_all_layers_and_entries() -> None:
    torch.manual_seed(0)
    parts = (nn.Conv2d(2, 5, 2), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5, 7))
    model, batch = nn.Sequential(*parts).double(), make_batch()
    first, last = (model[i].get_parameter("weight").detach().numpy() for i in (0, 4))
    losses = Orthogonal(orthogonal_lambda=0.01)(model, batch, F.cross_entropy)
    expected = loop_sum(first) + loop_sum(last)
    assert losses.terms["penalty"].item() == pytest.approx(expected)
    assert losses.total.item() == pytest.approx(losses.terms["adversarial"].item() + 0.01 * expected)
    shorter = Orthogonal(orthogonal_form="short_side")(model, batch, F.cross_entropy).terms["penalty"].item()
    assert shorter == pytest.approx(loop_sum(first) + loop_sum(last.T))


def test_short_side_takes_the_columns_of_tall_matrices_only() -> None:
    torch.manual_seed(0)
    tall, wide = torch.randn(7, 3, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    found = orthogonality([tall[None], wide[None]], "short_side").item()
    assert found == pytest.approx(loop_sum(tall.T.numpy()) + loop_sum(wide.numpy()))
    assert orthogonality([tall[None]], "rows").item() == pytest.approx(loop_sum(tall.numpy()))


def test_groups_of_a_convolution_are_matrices_of_their_own() -> None:
    torch.manual_seed(0)
    grouped = nn.Conv2d(4, 6, 2, groups=2, dtype=torch.float64)
    model = nn.Sequential(grouped, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.rand(2, 4, 2, 2, dtype=torch.float64)
    batch = Batch(x, torch.tensor([0, 1]), AdversarialInputs(x))
    weight = grouped.weight.detach().numpy()
    found = Orthogonal()(model, batch, F.cross_entropy).terms["penalty"].item()
    assert found == pytest.approx(loop_sum(weight[:3]) + loop_sum(weight[3:]))


@pytest.mark.parametrize("form", ["rows", "short_side"])
@pytest.mark.parametrize("shape", [(1, 3, 5), (1, 5, 3), (2, 3, 4)])
def test_the_gradient_of_orthogonality_is_that_of_finite_differences(shape: tuple[int, ...], form: str) -> None:
    matrices = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda *given: 0.3 * orthogonality([*given], form), [*matrices.requires_grad_()])


@given(rows=st.integers(1, 5), columns=st.integers(1, 5), seed=st.integers(0, 2**16), scale=st.floats(0.1, 3))
@settings(max_examples=50)
def test_orthogonality_is_positive_and_zero_for_orthonormal_rows(
    rows: int, columns: int, seed: int, scale: float
) -> None:
    matrix = scale * torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(matrix if rows >= columns else matrix.T).Q
    orthonormal = basis if rows >= columns else basis.T
    assert orthogonality([matrix[None]], "rows") >= 0
    assert orthogonality([orthonormal[None]], "short_side").item() == pytest.approx(0, abs=1e-12)
    # More rows than columns: W Wᵀ has rank `columns`, so at least rows − columns of its diagonal is missing.
    assert orthogonality([orthonormal[None]], "rows").item() >= max(rows - columns, 0) - 1e-9
