"""The ensemble's logits against the logarithm of the mean probability, and its gradients against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.loading.adapters import Ensemble


def member(seed: int, classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, classes)).double()


def images(n: int = 5) -> Tensor:
    return torch.rand(n, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


@given(count=st.integers(1, 5), classes=st.integers(2, 6), seed=st.integers(0, 2**16))
@settings(max_examples=30)
def test_logits_are_logarithms_of_mean_probabilities(count: int, classes: int, seed: int) -> None:
    members, x = [member(seed + i, classes) for i in range(count)], images()
    outputs = [np.exp(model(x).detach().numpy()) for model in members]
    mean = sum(output / output.sum(axis=1, keepdims=True) for output in outputs) / count
    logits = Ensemble(members)(x)
    np.testing.assert_allclose(logits.detach().numpy(), np.log(mean), rtol=1e-12)
    # They are logits: their softmax is the mean probability, and they sum to one as they stand.
    np.testing.assert_allclose(logits.softmax(dim=1).detach().numpy(), mean, rtol=1e-12)


def test_one_member_has_the_members_predictions_and_loss() -> None:
    model, x, y = member(0), images(), torch.tensor([0, 1, 2, 3, 0])
    ensemble = Ensemble([model])
    assert torch.equal(ensemble(x).argmax(dim=1), model(x).argmax(dim=1))
    torch.testing.assert_close(F.cross_entropy(ensemble(x), y), F.cross_entropy(model(x), y))


def test_input_gradients_reach_through_all_members() -> None:
    ensemble, y = Ensemble([member(0), member(1), member(2)]), torch.tensor([0, 1, 2, 3, 0])
    x = images().requires_grad_()
    assert torch.autograd.gradcheck(lambda inputs: F.cross_entropy(ensemble(inputs), y), (x,))
    probabilities = torch.stack([model(x).softmax(dim=1) for model in ensemble.members]).mean(dim=0)
    expected = torch.autograd.grad(-probabilities[range(5), y].log().mean(), x)[0]
    found = torch.autograd.grad(F.cross_entropy(ensemble(x), y), x)[0]
    torch.testing.assert_close(found, expected)


class Fixed(nn.Module):
    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([logits]))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def test_members_that_are_certain_and_disagree_are_a_finite_half_each() -> None:
    ensemble = Ensemble([Fixed(1000.0, 0.0, -1000.0), Fixed(0.0, 1000.0, -1000.0)])
    logits = ensemble(torch.zeros(1, 1, 1, 1))
    assert logits[0, :2].tolist() == pytest.approx([-math.log(2)] * 2)
    assert logits[0, 2].item() == pytest.approx(-2000 + 0.0, rel=1e-3)
    torch.autograd.backward(F.cross_entropy(logits, torch.tensor([2])))
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in ensemble.parameters())


def test_half_precision_members_are_averaged_in_single_precision() -> None:
    ensemble = Ensemble([Fixed(1.0, 2.0).bfloat16(), Fixed(3.0, 1.0).bfloat16()])
    assert ensemble(torch.zeros(2, 1, 1, 1)).dtype == torch.float32


def test_members_are_submodules_and_counted() -> None:
    members = [member(0), member(1)]
    ensemble = Ensemble(members).eval()
    assert len(ensemble) == 2
    assert not any(model.training for model in members)
    assert len(list(ensemble.parameters())) == 8


def test_an_empty_ensemble_and_different_class_counts_are_refused() -> None:
    with pytest.raises(UserError, match="ensemble: it has no members"):
        Ensemble([])
    with pytest.raises(UserError, match="ensemble: its members have 3 and 4 classes"):
        Ensemble([member(0, 3), member(1, 4)])(images())
    known = [member(0, 3), member(1, 4)]
    for model, count in zip(known, (3, 4), strict=True):
        model.num_classes = count  # type: ignore[assignment]
    with pytest.raises(UserError, match="ensemble: its members have 3 and 4 classes"):
        Ensemble(known)
