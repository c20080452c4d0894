"""Every precision against pyautoattack's ``run_standard_evaluation``, on backbones, image by image."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack import AutoAttack
from pyautoattack.fab_projections import projection_linf
from torch import Tensor, nn

from toolkit_ext import backbones
from toolkit_ext.evaluation import Budget, Protocol, evaluate
from toolkit_ext.evaluation.loading.checks import honest_dynamic_check
from toolkit_ext.evaluation.suite.autoattack import perturb, plan, set_budget
from toolkit_ext.evaluation.suite.fast import make_fast
from toolkit_ext.evaluation.suite.fast.fab import project
from toolkit_ext.evaluation.suite.precision import Judge

SHORT = Budget(n_iter=3, n_queries=12)
EPS = {"Linf": 0.03, "L2": 0.2, "L1": 1.5}
BACKBONES: dict[str, dict[str, Any]] = {
    "lenet": {"width": 2},
    "resnet18_w": {"width": 4},
    "vit_tiny_patch16_224": {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2},
}
CLASSES = (2, 3, 5, 10, 43)
# How attacks depend on the number of classes is no matter of the backbone: the cheapest one shows it for all numbers.
QUICK_CLASSES = {"lenet": CLASSES, "resnet18_w": (2, 43), "vit_tiny_patch16_224": (3, 10)}


def case(name: str, classes: int, n: int = 8, channels: int = 1) -> tuple[nn.Module, Tensor, Tensor]:
    """A model with random weights, its logits spread so that every class is somebody's; the last label is wrong."""
    torch.manual_seed(classes)
    options: dict[str, Any] = {"num_classes": classes, "in_chans": channels, "image_size": 8}
    model = backbones.create(name, **options, **BACKBONES[name]).eval()
    x = torch.rand(n, channels, 8, 8)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    y[-1] = (y[-1] + 1) % classes
    return model, x, y


def reference(model: nn.Module, x: Tensor, y: Tensor, norm: Any, classes: int, budget: Budget) -> Tensor:
    """pyautoattack's robust images, with as many target classes as there are."""
    attacks = list(plan("standard", norm, classes, 8).attacks)
    adversary = AutoAttack(model, norm=norm, eps=EPS[norm], seed=0, version="custom", attacks=attacks)
    adversary.apgd.n_restarts = adversary.fab.n_restarts = 1
    adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = min(9, classes - 1)
    set_budget(adversary, budget)
    with honest_dynamic_check():
        labels = adversary.run_standard_evaluation(x, y, batch_size=7)[1]
    robust: Tensor = labels == y
    return robust


def ours(model: nn.Module, x: Tensor, y: Tensor, norm: Any, precision: Any, budget: Budget = SHORT) -> Tensor:
    protocol = Protocol("parity", norm, EPS[norm])
    options: dict[str, Any] = {"batch_size": 7, "budget": budget, "progress": False}
    return evaluate(model, x, y, protocol, precision=precision, **options).robust["aa"]


# The small network always, the others before an issue is resolved.
QUICK = [pytest.param(name, marks=[pytest.mark.slow] * (name != "lenet")) for name in BACKBONES]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", QUICK)
def test_same_verdicts_for_any_number_of_classes(name: str, norm: str) -> None:
    broken = kept = 0
    for classes in QUICK_CLASSES[name]:
        model, x, y = case(name, classes)
        expected = reference(model, x, y, norm, classes, SHORT)
        # "fp32-reference" is compared pixel by pixel in test_autoattack.py.
        assert torch.equal(ours(model, x, y, norm, "fp32"), expected), classes
        broken, kept = broken + int((~expected[:-1]).sum()), kept + int(expected.sum())
    # Neither side agrees for want of work.
    assert broken > 0
    assert kept > 0


IN_COLOUR = [
    ("lenet", "Linf"),
    ("lenet", "L2"),
    ("lenet", "L1"),
    pytest.param("resnet18_w", "Linf", marks=pytest.mark.slow),
    pytest.param("vit_tiny_patch16_224", "L2", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "norm"), IN_COLOUR)
def test_same_verdicts_on_images_in_colour(name: str, norm: str) -> None:
    model, x, y = case(name, 5, n=12, channels=3)
    expected = reference(model, x, y, norm, 5, SHORT)
    assert 0 < int(expected.sum()) < len(x) - 1
    assert torch.equal(ours(model, x, y, norm, "fp32"), expected)
    assert int((ours(model, x, y, norm, "bf16-verified") != expected).sum()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("classes", CLASSES)
def test_same_verdicts_at_the_standard_effort(classes: int, name: str, norm: str) -> None:
    model, x, y = case(name, classes)
    expected = reference(model, x, y, norm, classes, Budget())
    for precision in ("fp32-reference", "fp32"):
        assert torch.equal(ours(model, x, y, norm, precision, Budget()), expected)


class Apart(nn.Module):
    """A linear model each of whose logits is summed image by image, so that company in a batch changes no bit."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, channels * 36))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = (x.flatten(1).unsqueeze(1) * self.weight).sum(dim=2)
        return logits


def pair(norm: Any, channels: int, eps: float, n: int = 40) -> tuple[Any, Any, Tensor, Tensor]:
    """pyautoattack's attacks, ours, images and the model's own labels of them."""
    model, x = Apart(5, channels).requires_grad_(False), torch.rand(n, channels, 6, 6).round(decimals=1)
    library, fast = (AutoAttack(model, norm=norm, eps=eps, seed=1) for _ in range(2))
    for adversary in (library, fast):
        set_budget(adversary, Budget(12, 400))
        adversary.fab.n_target_classes, adversary.fab.targeted = 4, True
    make_fast(fast)
    return library, fast, x, model(x).argmax(dim=1)


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("n", [1, pytest.param(3, marks=pytest.mark.slow), 70])
@pytest.mark.parametrize(("channels", "norm"), [(1, "Linf"), (3, "Linf"), (1, "L2")])
def test_square_gives_the_library_s_images(channels: int, norm: str, n: int, judged: bool) -> None:
    torch.manual_seed(0)
    library, fast, x, y = pair(norm, channels, 0.04 if norm == "Linf" else 0.3, n)
    if judged:
        make_fast(fast, Judge(copy.deepcopy(fast.square.predict)))
    asked: list[int] = []
    fast.square.predict.register_forward_hook(lambda _, inputs, __: asked.append(len(inputs[0])))
    found = fast.square.perturb(x.clone(), y)
    ours_asked, asked[:] = list(asked), []
    assert torch.equal(found, library.square.perturb(x.clone(), y))
    assert n < 70 or 0 < int((found != x).flatten(1).any(dim=1).sum()) < len(x)
    # The model is shared, so the hook has counted the library's questions, too.
    if norm == "L2":
        assert ours_asked == asked
    elif n == 70:  # in step until half are left
        assert sum(ours_asked) < (0.9 if channels == 1 else 1.1) * sum(asked)
    else:  # several queries of an image in a pass
        assert max(ours_asked) > n
        assert len(ours_asked) < 0.5 * len(asked)


LOSSES = {"ce": "apgd", "dlr": "apgd", "dlr-targeted": "apgd_targeted"}


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize(("channels", "steps"), [(1, 12), (3, 12), (3, 100)])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_apgd_climbs_to_the_library_s_points(norm: str, loss: str, channels: int, steps: int, judged: bool) -> None:
    torch.manual_seed(0)
    both = pair(norm, channels, 0.05 if norm == "Linf" else 0.4)
    x, y = both[2:]
    asked: list[int] = []
    model = both[0].apgd.model
    model.register_forward_hook(lambda _, inputs, __: asked.append(len(inputs[0])))
    runs, counts = [], []
    judge = Apart(5, channels).requires_grad_(False)
    judge.weight = model.weight
    make_fast(both[1], Judge(judge) if judged else None)
    for adversary in both[:2]:
        set_budget(adversary, Budget(steps, 400))
        attack = getattr(adversary, LOSSES[loss])
        attack.loss, attack.y_target = loss, (y + 1) % 5
        attack.init_hyperparam(x)
        torch.manual_seed(1)
        runs.append(attack.attack_single_run(x.clone(), y))
        counts.append(sum(asked))
        asked.clear()
    (best, right, value, _), (our_best, our_right, our_value, broken) = runs
    still = right.bool()
    assert 0 < int(still.sum()) < len(x)
    assert torch.equal(our_right.bool(), still)
    assert torch.equal(our_best[still], best[still])
    assert torch.equal(our_value[still], value[still])
    assert torch.equal(model(broken).argmax(dim=1) == y, still)
    # What is broken is not asked about for long: an eighth of the images is worth another batch size.
    few = norm == "L2" or int((~still).sum()) < len(x) / 8
    assert counts[1] == counts[0] if few else counts[1] < counts[0]


@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-dlr", "apgd-t"])
def test_apgd_breaks_the_images_that_the_library_breaks(attack: str) -> None:
    torch.manual_seed(2)
    library, fast, x, y = pair("Linf", 1, 0.06)
    y[:5] = (y[:5] + 1) % 5
    for adversary in (library, fast):
        adversary.apgd_targeted.n_target_classes = 4
    theirs, found = perturb(library, attack, x.clone(), y), perturb(fast, attack, x.clone(), y)
    model = library.apgd.model
    wrong = model(theirs).argmax(dim=1) != y
    assert torch.equal(model(found).argmax(dim=1) != y, wrong)
    assert 5 < int(wrong.sum()) < len(x)
    assert (found - x).abs().max() <= 0.06 + 1e-6
    assert torch.equal(found[:5], x[:5])  # wrong as they are


@pytest.mark.parametrize("n", [9, 40])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_fab_finds_what_the_library_finds(norm: str, n: int) -> None:
    torch.manual_seed(0)
    library, fast, x, y = pair(norm, 1, 0.03 if norm == "Linf" else 0.2)
    x, y, model = x[:n], y[:n], library.fab.predict
    asked: list[int] = []
    model.register_forward_hook(lambda _, inputs, __: asked.append(len(inputs[0])))
    theirs, passes = library.fab.perturb(x.clone(), y), len(asked)
    found = fast.fab.perturb(x.clone(), y)
    assert norm == "L2" or (len(asked) < 1.6 * passes) == (n == 9)  # all targets at once
    assert torch.equal(model(found).argmax(dim=1), model(theirs).argmax(dim=1))
    broken = model(found).argmax(dim=1) != y
    assert 0 < int(broken.sum()) < len(x)
    # In Linf ours goes on only until it is within the ball: the test below compares how near it gets.
    same = ~broken if norm == "Linf" else torch.ones_like(broken)
    assert torch.allclose(found[same], theirs[same], atol=1e-4)


def test_fab_goes_as_near_as_the_library_until_it_is_within_the_ball() -> None:
    torch.manual_seed(0)
    library, fast, x, y = pair("Linf", 1, 0.03)
    library.fab.device, library.fab.target_class = x.device, 2
    second = library.fab.predict(x).sort(dim=1)[1][:, -2]
    with torch.no_grad():
        runs = [library.fab.attack_single_run(x.clone(), y, is_targeted=True), fast.fab.search(x, y, second)]
    far = (runs[0] - x).abs().amax(dim=(1, 2, 3)) > 0.03
    assert 5 < int(far.sum()) < len(x) - 5
    assert torch.allclose(runs[1][far], runs[0][far], atol=1e-4)
    model, inside = library.fab.predict, runs[1][~far]
    assert ((inside - x[~far]).abs().amax(dim=(1, 2, 3)) <= 0.03).all()
    # The library's goes on to the boundary, where its label is a matter of rounding.
    ours, theirs = (model(run[~far]).sort(dim=1).values for run in (runs[1], runs[0]))
    assert ((ours[:, -1] - ours[:, -2]).mean() > (theirs[:, -1] - theirs[:, -2]).mean()).item()
    assert (model(inside).argmax(dim=1) != y[~far]).all()


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([1, 7, 64]), st.floats(0, 3))
def test_the_projection_is_the_library_s(seed: int, size: int, offset: float) -> None:
    """Also with normals of 0, points on faces of the box, and hyperplanes that miss it."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(20, size, generator=generator).mul(1.4).sub(0.2).clamp(0, 1)
    normals = torch.randn(20, size, generator=generator)
    normals[:, ::5] *= (torch.rand(20, 1, generator=generator) > 0.5).float()
    offsets = (normals * points).sum(dim=1) + offset * torch.randn(20, generator=generator)
    sign, gap = normals.sign(), (normals * points).sum(dim=1) - offsets
    ours, theirs = -sign * project(points, normals.abs(), sign, gap)[0], projection_linf(points, normals, offsets)
    assert torch.allclose(ours, theirs, atol=1e-4)
    moved = points + ours
    assert moved.min() >= 0
    assert moved.max() <= 1
    # Every hyperplane is reached that the library's change reaches.
    gap = ((normals * moved).sum(dim=1) - offsets).abs()
    assert (gap <= ((normals * (points + theirs)).sum(dim=1) - offsets).abs() + 1e-4).all()
