"""The copy that attacks look at: the same function as the model, folded and cast or not, and the model untouched."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import fuse_conv_bn_weights

from toolkit_ext import backbones
from toolkit_ext.attacks import PGD, Deep, generate
from toolkit_ext.backbones.spectral_norm import spectral_norm
from toolkit_ext.errors import UserError
from toolkit_ext.fast.formats import half_passes
from toolkit_ext.fast.frozen_copy import FrozenCopy, plain_copy
from toolkit_ext.fast.kernels.folding import find_pairs, foldable_pairs, folded

X, Y = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4)


def trained(name: str, **arguments: Any) -> nn.Module:
    """A model whose batch norms have statistics of their own, in training mode; the same weights each time."""
    return copy.deepcopy(_trained(name, tuple(arguments.items())))


@cache
def _trained(name: str, given: tuple[tuple[str, Any], ...]) -> nn.Module:
    arguments = dict(given)
    torch.manual_seed(0)
    model = backbones.create(name, num_classes=10, in_chans=3, image_size=16, **arguments)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.get_buffer("running_mean"), -0.5, 0.5)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.train()


def logits_and_gradient(model: nn.Module, x: Tensor = X) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = model(x)
    return logits.detach(), torch.autograd.grad(cross_entropy(logits, Y), x)[0]


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# The backbone, and how many of its batch norms follow a convolution.
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "resnet18_w": ({"width": 2}, 20),
    "resnet18": ({"small_stem": True, "channels": (64, 8, 16, 32)}, 20),
    "preact_resnet18": ({"channels": (64, 8, 16, 32)}, 8),  # in each block, the one after the first convolution
    "mobilenetv3_small_050": ({}, 34),  # with the activation inside
    "lenet": ({"width": 2}, 0),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_folding_is_exact(name: str, memory_format: Any, dtype: torch.dtype, tolerance: float) -> None:
    arguments, pairs = NETWORKS[name]
    model = trained(name, **arguments).to(dtype).to(memory_format=memory_format)  # type: ignore[call-overload]
    before, x = bits(model), X.to(dtype)
    frozen = FrozenCopy(model, x[:2], folds=True)
    assert len(frozen.pairs) == pairs
    found = logits_and_gradient(frozen.refresh(), x)
    assert model.training
    assert unchanged(model, before)
    checked = zip(found, logits_and_gradient(model.eval(), x), strict=True)
    # In fp32 a rounding puts one ReLU or other on the other side of 0, which the gradient shows.
    for ours, expected in list(checked)[: 1 if dtype == torch.float32 else 2]:
        torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_many_pairs_are_folded_to_the_bits_of_torchs_own(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    pairs = [
        (nn.Conv2d(3, 5, 3, bias=biased), nn.BatchNorm2d(5, eps, affine=affine))
        for biased, affine, eps in ((True, True, 1e-5), (False, True, 1e-3), (True, False, 0.1), (False, False, 1.0))
    ]
    for conv, norm in pairs:
        norm(conv(X))
        if norm.affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        conv.to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        norm.to(dtype)
    for conv, norm, *found in zip(*zip(*pairs, strict=True), *folded(pairs), strict=True):
        expected = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
        assert found[0].stride() == expected[0].stride()
    assert folded([]) == ([], [])


def test_it_follows_the_model() -> None:
    model, x = trained("resnet18_w", width=2).double(), X.double()  # in fp32 a ReLU may be on the other side of 0
    frozen = FrozenCopy(model, x[:2], folds=True)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
        model(x)  # moves the statistics too
    found = logits_and_gradient(frozen.refresh(), x)
    for ours, expected in zip(found, logits_and_gradient(model.eval(), x), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


class Skips(nn.Module):
    """Batch norm follows the convolution, and yet the convolution's own output is needed as well."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.twice = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), twice

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        out: Tensor = self.norm(h) + (self.norm(h.flip(3)) if self.twice else h)
        return out.mean((2, 3))


class Rescales(nn.Module):
    """Looks like a convolution and its batch norm, and reads the weight of the convolution once more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.norm(self.conv(x)) * self.conv.weight.norm()
        return scaled.mean((2, 3))


class Marked(torch.autograd.Function):
    """The identity, as a function of the user's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


def test_a_function_of_the_users_own_at_the_end_is_no_obstacle() -> None:
    model = trained("resnet18_w", width=2).eval()
    model.register_forward_hook(lambda module, inputs, output: Marked.apply(output))
    assert len(find_pairs(model, X)) == 20


def test_a_pair_that_only_looks_like_one_fails_the_proof() -> None:
    model = Rescales().eval()
    assert find_pairs(model, X) == [("conv", "norm")]
    assert foldable_pairs(lambda: plain_copy(model), X) == []


@pytest.mark.parametrize("twice", [False, True])
def test_what_cannot_be_folded_is_not(twice: bool) -> None:
    model = Skips(twice).eval()
    assert find_pairs(model, X) == []
    assert foldable_pairs(lambda: plain_copy(model), X) == []
    frozen = FrozenCopy(model, X, folds=True)
    assert torch.equal(frozen.refresh()(X), model(X))


def test_training_mode_is_not_folded() -> None:
    frozen = FrozenCopy(trained("resnet18_w", width=2), X[:2], folds=True, mode="train")
    assert frozen.pairs == []
    assert frozen.copy.training


@pytest.mark.parametrize("name", ["lenet", "resnet18_w", "vit_tiny_patch16_224"])
def test_half_precision_gives_what_autocast_gives(name: str) -> None:
    arguments = {"patch_size": 4, "depth": 2} if name.startswith("vit") else {"width": 2}
    model = trained(name, **arguments)
    before = bits(model)
    found = logits_and_gradient(FrozenCopy(model, X[:2], dtype=torch.bfloat16).refresh())
    assert unchanged(model, before)
    assert all(weight.dtype == torch.float32 and weight.requires_grad for weight in model.parameters())

    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with half_passes(x.device, torch.bfloat16):
                logits: Tensor = model(x)
            return logits.float()

    model.eval()
    for ours, expected in zip(found, logits_and_gradient(Half()), strict=True):
        assert ours.dtype == torch.float32
        if name.startswith("vit"):  # its attention is computed in another order
            assert nn.functional.cosine_similarity(ours.flatten(), expected.flatten(), dim=0) > 0.999
        else:
            assert torch.equal(ours, expected)


def test_half_precision_is_near_full_precision() -> None:
    model = trained("resnet18_w", width=2)
    logits, gradient = logits_and_gradient(FrozenCopy(model, X[:2], dtype=torch.bfloat16, folds=True).refresh())
    model.eval()
    expected, slope = logits_and_gradient(model)
    torch.testing.assert_close(logits, expected, rtol=0, atol=0.03 * float(expected.abs().max()))
    assert nn.functional.cosine_similarity(gradient.flatten(), slope.flatten(), dim=0) > 0.97


def test_spectral_normalisation_is_baked_into_the_copy_alone() -> None:
    model = spectral_norm(trained("resnet18_w", width=2))
    before = bits(model)
    found = logits_and_gradient(FrozenCopy(model, X[:2]).refresh())
    assert unchanged(model, before)
    model.eval()
    for ours, expected in zip(found, logits_and_gradient(model), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_shared_weights_stay_shared_and_uncast_where_something_else_uses_them() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(3, 3 * 16 * 16)
            self.fc = nn.Linear(3 * 16 * 16, 3, bias=False)
            self.fc.weight = self.table.weight

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(x.flatten(1))
            return logits + self.table.weight.sum(1)

    copy: Any = FrozenCopy(Tied(), X, dtype=torch.bfloat16).copy
    assert copy.fc.weight is copy.table.weight
    assert copy.fc.weight.dtype == torch.float32


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    model.held = iter(())  # type: ignore[assignment]
    model.held = (i for i in range(2))  # type: ignore[assignment]
    with pytest.raises(UserError, match="model: Sequential cannot be copied"):
        FrozenCopy(model, X)


def test_a_wrapped_forward_is_used() -> None:
    calls = []

    def compiler(forward: Any) -> Any:
        def run(x: Tensor) -> Any:
            calls.append(len(x))
            return forward(x)

        return run

    frozen = FrozenCopy(trained("lenet", width=2), X[:2], compiler=compiler)
    calls.clear()
    generate(PGD(eps=0.1, steps=3), frozen.refresh(), X, Y)
    assert calls == [4, 4, 4]


def test_the_deep_attack_finds_its_layers_in_the_copy() -> None:
    model = trained("lenet", width=2)
    perturbed = generate(Deep(eps=0.1, deep_steps=1), FrozenCopy(model, X[:2], dtype=torch.bfloat16).refresh(), X, Y)
    assert torch.isfinite(perturbed.logits(model)).all()
