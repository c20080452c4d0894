"""The adapters return the tensor that the wrapped library returns, and leave the model as it was."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import FastGradientMethod, MomentumIterativeMethod, ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from toolkit_ext.attacks import FGSM, MIM, PGD, TPGD, MultiAttack, RandomFGSM, generate
from toolkit_ext.errors import UserError
from toolkit_ext.types import AdversarialInputs, Attack

EPS, ALPHA, STEPS = 0.1, 0.03, 4


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(256, 5)
    )


@pytest.fixture
def model() -> nn.Sequential:
    model = small_model()
    with torch.no_grad():
        model(torch.rand(64, 3, 8, 8))  # running statistics unlike the initial ones
    model.train()
    return model


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(6, 3, 8, 8, generator=generator), torch.arange(6) % 5


TORCHATTACKS: dict[str, tuple[Attack, Any]] = {
    "fgsm": (FGSM(eps=EPS), lambda m: torchattacks.FGSM(m, eps=EPS)),
    "fgsm-l2": (
        FGSM(eps=0.5, norm="L2"),
        lambda m: torchattacks.PGDL2(m, eps=0.5, alpha=0.5, steps=1, random_start=False),
    ),
    "fast": (RandomFGSM(eps=EPS), lambda m: torchattacks.FFGSM(m, eps=EPS, alpha=1.25 * EPS)),
    "pgd": (PGD(eps=EPS, alpha=ALPHA, steps=STEPS), lambda m: torchattacks.PGD(m, EPS, ALPHA, STEPS)),
    "pgd-default-alpha": (
        PGD(eps=EPS, steps=5, random_start=False),
        lambda m: torchattacks.PGD(m, EPS, 2.5 * EPS / 5, 5, random_start=False),
    ),
    "pgd-l2": (
        PGD(eps=1.0, alpha=0.3, steps=STEPS, norm="L2"),
        lambda m: torchattacks.PGDL2(m, eps=1.0, alpha=0.3, steps=STEPS),
    ),
    "mim": (
        MIM(eps=EPS, alpha=ALPHA, steps=STEPS, decay=0.7),
        lambda m: torchattacks.MIFGSM(m, eps=EPS, alpha=ALPHA, steps=STEPS, decay=0.7),
    ),
    "tpgd": (TPGD(eps=EPS, alpha=ALPHA, steps=STEPS), lambda m: torchattacks.TPGD(m, EPS, ALPHA, STEPS)),
}


@pytest.mark.parametrize("name", TORCHATTACKS)
def test_torchattacks_parity(name: str, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    ours, theirs = TORCHATTACKS[name]
    torch.manual_seed(7)
    mine = generate(ours, model, *batch).inputs
    torch.manual_seed(7)
    expected = theirs(model.eval())(*batch)
    assert torch.equal(mine, expected)
    assert not torch.equal(mine, batch[0])


LAYOUTS = (torch.contiguous_format, torch.channels_last)
DETERMINISTIC: dict[str, Attack] = {
    "fgsm": FGSM(eps=EPS),
    "fgsm-l2": FGSM(eps=0.5, norm="L2"),
    "pgd": PGD(eps=EPS, steps=STEPS, random_start=False),
    "pgd-l2": PGD(eps=1.0, steps=STEPS, norm="L2", random_start=False),
    "mim": MIM(eps=EPS, steps=STEPS),
}


@pytest.mark.parametrize("of_images", LAYOUTS, ids=str)
@pytest.mark.parametrize("of_weights", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_any_layout(
    name: str, of_weights: torch.memory_format, of_images: torch.memory_format, batch: tuple[Tensor, Tensor]
) -> None:
    """Gradients come in the layout that convolutions run in, of which torchattacks' PGDL2 cannot take its views."""
    x, y = batch
    expected = generate(DETERMINISTIC[name], small_model(), x, y).inputs
    model = small_model().to(memory_format=of_weights)  # type: ignore[call-overload]
    found = generate(DETERMINISTIC[name], model, x.contiguous(memory_format=of_images), y).inputs
    assert torch.allclose(found, expected, atol=1e-5)


def test_l2_starts_at_random_in_any_layout(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    attack = PGD(eps=1.0, steps=2, norm="L2")
    distance = (
        (generate(attack, model, x.contiguous(memory_format=torch.channels_last), y).inputs - x).flatten(1).norm(dim=1)
    )
    assert ((distance > 0.5) & (distance <= 1.0 + 1e-5)).all()


def _art(model: nn.Module) -> PyTorchClassifier:
    loss = nn.CrossEntropyLoss()
    return PyTorchClassifier(
        model, loss=loss, input_shape=(3, 8, 8), nb_classes=5, clip_values=(0.0, 1.0), device_type="cpu"
    )


ART: dict[str, tuple[Attack, Any]] = {
    "fgsm": (FGSM(eps=EPS, backend="art"), lambda c: FastGradientMethod(c, eps=EPS)),
    "fgsm-l2": (FGSM(eps=0.5, norm="L2", backend="art"), lambda c: FastGradientMethod(c, norm=2, eps=0.5)),
    "pgd": (
        PGD(eps=EPS, alpha=ALPHA, steps=STEPS, backend="art"),
        lambda c: ProjectedGradientDescentPyTorch(
            c, eps=EPS, eps_step=ALPHA, max_iter=STEPS, num_random_init=1, verbose=False
        ),
    ),
    "pgd-l2": (
        PGD(eps=1.0, alpha=0.3, steps=STEPS, norm="L2", backend="art"),
        lambda c: ProjectedGradientDescentPyTorch(
            c, norm=2, eps=1.0, eps_step=0.3, max_iter=STEPS, num_random_init=1, verbose=False
        ),
    ),
    "pgd-l1": (
        PGD(eps=4.0, alpha=0.5, steps=STEPS, norm="L1", backend="art"),
        lambda c: ProjectedGradientDescentPyTorch(
            c, norm=1, eps=4.0, eps_step=0.5, max_iter=STEPS, num_random_init=1, verbose=False
        ),
    ),
    "mim": (
        MIM(eps=EPS, alpha=ALPHA, steps=STEPS, decay=0.7, backend="art"),
        lambda c: MomentumIterativeMethod(c, eps=EPS, eps_step=ALPHA, max_iter=STEPS, decay=0.7, verbose=False),
    ),
    "mim-l2": (
        MIM(eps=1.0, alpha=0.3, steps=STEPS, norm="L2", backend="art"),
        lambda c: MomentumIterativeMethod(c, norm=2, eps=1.0, eps_step=0.3, max_iter=STEPS, decay=1.0, verbose=False),
    ),
}


@pytest.mark.parametrize("name", ART)
def test_art_parity(name: str, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    ours, theirs = ART[name]
    np.random.seed(3)
    mine = generate(ours, model, *batch).inputs
    np.random.seed(3)
    one_hot = nn.functional.one_hot(batch[1], 5).float().numpy()
    expected = theirs(_art(model.eval())).generate(batch[0].numpy(), one_hot)
    assert np.array_equal(mine.numpy(), expected)


@pytest.mark.parametrize("backend", ["torchattacks", "art"])
def test_crafting_leaves_the_model_as_it_was(backend: Any, model: Any, batch: tuple[Tensor, Tensor]) -> None:
    model[1].eval()  # a batch norm that the user froze
    model[0].weight.requires_grad_(False)
    model[5].weight.grad = torch.ones_like(model[5].weight)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    generate(PGD(eps=EPS, steps=2, backend=backend), model, *batch)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert torch.equal(model[5].weight.grad, torch.ones_like(model[5].weight))
    assert all(p.grad is None for p in list(model.parameters())[:4])


def test_crafting_restores_after_an_exception(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    seen: list[tuple[bool, bool]] = []

    class Broken(FGSM):
        def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
            seen.append((model.training, any(p.requires_grad for p in model.parameters())))
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        generate(Broken(), model, *batch)
    assert seen == [(False, False)]
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_train_mode_puts_running_statistics_back(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    in_train = generate(FGSM(eps=EPS), model, *batch, mode="train").inputs
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not torch.equal(in_train, generate(FGSM(eps=EPS), model, *batch).inputs)


@given(
    eps=st.floats(0, 0.5),
    kind=st.sampled_from([FGSM, RandomFGSM, PGD, MIM, TPGD, MultiAttack]),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=40)
def test_stays_in_the_ball_and_the_box(eps: float, kind: Any, seed: int) -> None:
    model = small_model()
    torch.manual_seed(seed)
    x, y = torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 2])
    adversarial = generate(kind(eps=eps), model, x, y).inputs
    assert 0 <= adversarial.min() <= adversarial.max() <= 1
    assert (adversarial - x).abs().max() <= eps + 1e-6


def test_vanishing_gradient_keeps_the_clean_pixels() -> None:
    linear = nn.Linear(192, 5)
    nn.init.zeros_(linear.weight)
    model = nn.Sequential(nn.Flatten(), linear)
    x, y = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    assert torch.equal(generate(MIM(eps=EPS), model, x, y).inputs, x)


def test_eps_zero_is_the_clean_batch(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    for attack in (FGSM(eps=0), PGD(eps=0, norm="L2"), MIM(eps=0.1).at(eps=0)):
        assert torch.equal(generate(attack, model, *batch).inputs, batch[0])


def test_alpha_scales_with_eps() -> None:
    assert PGD(eps=0.2, alpha=0.05).at(eps=0.1).step_size == pytest.approx(0.025)
    assert PGD(eps=0.2, steps=10).at(eps=0.1).step_size == pytest.approx(0.025)


def test_multi_attack_takes_turns(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    attack = MultiAttack(eps=EPS, steps=2, random_start=False, multi_attacks=("fgsm", "mim", "pgd"))
    singles = [FGSM(eps=EPS), MIM(eps=EPS, steps=2), PGD(eps=EPS, steps=2, random_start=False)]
    for step in range(6):
        mine = generate(attack.at(eps=EPS, step=step), model, *batch).inputs
        assert torch.equal(mine, generate(singles[step % 3], model, *batch).inputs)


def test_worst_of_takes_the_largest_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    attack = MultiAttack(eps=EPS, steps=2, random_start=False, multi_mode="worst")
    worst = generate(attack, model, *batch).inputs
    model.eval()

    def loss(x: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(x), batch[1], reduction="none")

    members = [loss(generate(member, model, *batch).inputs) for member in attack.members()]
    torch.testing.assert_close(loss(worst), torch.stack(members).amax(dim=0))


def test_random_mode_depends_on_the_step_alone(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    attack = MultiAttack(eps=EPS, steps=2, random_start=False, multi_mode="random")
    first, again = (generate(attack.at(eps=EPS, step=5), model, *batch).inputs for _ in range(2))
    assert torch.equal(first, again)
    drawn = {
        tuple(generate(attack.at(eps=EPS, step=s), model, *batch).inputs.flatten()[:50].tolist()) for s in range(12)
    }
    assert len(drawn) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(eps=-0.1), "eps: -0.1"),
        (lambda: PGD(eps=8), "did you mean 8/255 = 0.0314"),
        (lambda: PGD(alpha=0), "alpha: 0"),
        (lambda: PGD(steps=0), "steps: 0"),
        (lambda: PGD(norm=cast(Any, "L1")), "norm: 'L1' is not allowed with backend torchattacks; use backend art"),
        (lambda: PGD(norm=cast(Any, "L3")), "norm: 'L3' is not known"),
        (lambda: PGD(backend=cast(Any, "foolbox")), "backend: 'foolbox'"),
        (lambda: MultiAttack(multi_attacks=("pgd", "fgms")), "did you mean fgsm"),
        (lambda: MultiAttack(multi_attacks=()), "multi_attacks: the list is empty"),
    ],
)
def test_bad_options_name_themselves(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_missing_combinations_say_which_backend(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match="'torchattacks' has no MIM attack in L2; allowed: torchattacks Linf, art"):
        generate(MIM(norm="L2"), model, *batch)
    with pytest.raises(UserError, match="'art' has no TPGD attack in Linf; allowed: torchattacks Linf"):
        generate(TPGD(backend="art"), model, *batch)
