"""The deep attack's contract: budgets, independence of examples, hooks, errors, and the models it runs on."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar

import pytest
import timm
import torch
from torch import Tensor, nn

from toolkit_ext.attacks.layerwise import Deep, Hidden, choose, cross_entropy
from toolkit_ext.attacks.layerwise.neurons import Target
from toolkit_ext.attacks.layerwise.penalty import Penalty
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.counting import counted
from toolkit_ext.types import Attack, HiddenNorm

SETTINGS = list(itertools.product(("cg", "ga", "pgd"), ("perturbations", "neurons"), ("quadratic", "ball")))


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    # The first activation works in place, on the neurons that the attack put there.
    features = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU()]
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def batch(n: int = 5, channels: int = 1, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, channels, size, size, generator=generator), torch.arange(n) % 3


def deltas(hidden: object) -> dict[str, Tensor]:
    assert isinstance(hidden, Hidden)
    return dict(hidden.perturbations)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def small(name: str) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    if name == "resnet18":
        return timm.create_model(name, num_classes=3, in_chans=1, channels=(8, 8, 8, 8), stem_width=8), 32
    if name == "vit":
        size = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
        return timm.create_model("vit_tiny_patch16_224", num_classes=3, in_chans=1, **size), 32
    return cnn(), 8


@pytest.mark.parametrize(("solver", "variables", "rho"), SETTINGS)
@pytest.mark.parametrize("name", ["cnn", "resnet18", "vit"])
def test_raises_the_loss_on_every_kind_of_model(name: str, solver: str, variables: str, rho: str) -> None:
    model, size = small(name)
    model.eval()
    x, y = batch(4, size=size)
    attack = Deep(
        eps=0.1, deep_hidden_eps=0.1, deep_solver=solver, deep_variables=variables, deep_rho=rho, deep_start=0
    )
    found = attack(model, x, y)
    assert found.inputs.shape == x.shape
    assert found.inputs.min() >= 0
    assert found.inputs.max() <= 1
    assert list(deltas(found.hidden)) == list(choose(model))
    with torch.no_grad():
        gain = cross_entropy(found.logits(model), y) - cross_entropy(model(x), y)
    assert gain.mean() > 0
    assert hooks(model) == 0
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize(("solver", "variables"), [("cg", "perturbations"), ("cg", "neurons"), ("pgd", "neurons")])
def test_balls_hold(norm: HiddenNorm, solver: str, variables: str) -> None:
    model, (x, y) = cnn(), batch()
    attack = Deep(eps=0.1, norm=norm, deep_norm=norm, deep_rho="ball", deep_solver=solver, deep_variables=variables)
    found = attack(model, x, y)
    order = float("inf") if norm == "Linf" else 2
    assert (found.inputs - x).flatten(1).norm(order, dim=1).max() <= 0.1 + 1e-6
    for d, clean in zip(deltas(found.hidden).values(), outputs(model, choose(model), x), strict=True):
        flat = clean.flatten(1)
        size = flat.square().mean(1).sqrt() if norm == "Linf" else flat.norm(dim=1)
        assert (d.flatten(1).norm(order, dim=1) <= 0.02 * size * (1 + 1e-5)).all()


@pytest.mark.parametrize(("solver", "variables", "rho"), SETTINGS)
def test_examples_do_not_influence_one_another(solver: str, variables: str, rho: str) -> None:
    model, (x, y) = cnn().double(), batch()
    x = x.double()
    attack = Deep(
        eps=0.1, deep_hidden_eps=0.1, deep_solver=solver, deep_variables=variables, deep_rho=rho, deep_start=0
    )
    together = attack(model, x, y)
    for i in range(len(x)):
        alone = attack(model, x[i : i + 1], y[i : i + 1])
        torch.testing.assert_close(alone.inputs[0], together.inputs[i], rtol=1e-6, atol=1e-9)
        for name, d in deltas(alone.hidden).items():
            torch.testing.assert_close(d[0], deltas(together.hidden)[name][i], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("variables", ["perturbations", "neurons"])
def test_the_hidden_context_reproduces_the_objective(variables: str) -> None:
    model, (x, y) = cnn().double(), batch()
    x = x.double()
    layers = choose(model)
    attack = Deep(eps=0.2, deep_hidden_eps=0.3, deep_variables=variables)
    objective = attack.objective(Target(model, layers, x, y, cross_entropy))
    start = objective.start(0.5)
    objective(start)
    value, _ = objective(torch.randn_like(start))
    value, _ = objective(z := torch.randn_like(start))
    d = [radius * part for radius, part in zip(objective.radii, objective.perturbations(z), strict=True)]
    with Hidden(dict(zip(layers, d[1:], strict=True)))(model), torch.no_grad():
        cost = cross_entropy(model(x + d[0]), y)
    penalty = sum(-(part / radius).flatten(1).square().sum(1) for part, radius in zip(d, objective.radii, strict=True))
    torch.testing.assert_close(value, cost + penalty)


def test_the_hidden_context_reproduces_the_neurons() -> None:
    model, (x, y) = cnn().double(), batch()
    x = x.double()
    layers = choose(model)
    objective = Deep(eps=0.2, deep_hidden_eps=0.3, deep_variables="neurons").objective(
        Target(model, layers, x, y, cross_entropy)
    )
    clean = outputs(model, layers, x)
    objective(torch.zeros_like(objective.start(0)))
    z = torch.randn_like(objective.start(0))
    neurons = [n + r * part for n, r, part in zip([x, *clean], objective.radii, objective.split(z), strict=True)]
    d = [radius * part for radius, part in zip(objective.radii, objective.perturbations(z), strict=True)]
    with Hidden(dict(zip(layers, d[1:], strict=True)))(model):
        for found, expected in zip(outputs(model, layers, x + d[0]), neurons[1:], strict=True):
            torch.testing.assert_close(found, expected)


def outputs(model: nn.Module, layers: Mapping[str, nn.Module], x: Tensor) -> list[Tensor]:
    """Copies of the outputs of ``layers`` (later modules may work in place), after any hooks on them."""
    seen: list[Tensor] = []
    handles = [module.register_forward_hook(lambda *args: seen.append(args[2].clone())) for module in layers.values()]
    model(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("variables", ["perturbations", "neurons"])
@pytest.mark.parametrize(("solver", "forward", "backward"), [("cg", 1 + 7, 6), ("ga", 1 + 7, 6), ("pgd", 1 + 3, 3)])
def test_no_pass_is_made_in_vain(variables: str, solver: str, forward: int, backward: int) -> None:
    model, (x, y) = cnn(), batch()
    with counted(model) as passes:
        Deep(deep_solver=solver, deep_variables=variables, deep_steps=3)(model, x, y)
    # Where the neurons are the unknowns, one forward pass more may be needed for the perturbations.
    spare = len(x) * (variables == "neurons" and solver != "pgd")
    assert passes.backward == backward * len(x)
    assert forward * len(x) <= passes.forward <= forward * len(x) + spare


@pytest.mark.parametrize(
    ("variables", "rho"), list(itertools.product(["perturbations", "neurons"], ["quadratic", "ball"]))
)
def test_the_value_alone_is_the_value(variables: str, rho: str) -> None:
    model, (x, y) = cnn(), batch()
    attack = Deep(eps=0.2, deep_hidden_eps=0.3, deep_variables=variables, deep_rho=rho)
    objective = attack.objective(Target(model, choose(model), x, y, cross_entropy))
    objective(objective.start(0.5))
    z = objective.start(0.5)
    assert torch.equal(objective.value(z), objective(z)[0])


class Watched(torch.autograd.Function):
    """The identity, which notes in ``seen`` whether its gradient is in channels last."""

    seen: ClassVar[list[bool]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        Watched.seen.append(gradient.is_contiguous(memory_format=torch.channels_last))
        return gradient


class Watch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = Watched.apply(x)  # type: ignore[no-untyped-call]
        return found


def test_a_flatten_behind_a_layer_does_not_turn_its_gradient() -> None:
    """Pooling copies its input and output to the order of the gradient that it gets."""
    watched = nn.Sequential(nn.Conv2d(1, 3, 3), Watch(), nn.Flatten(), nn.Linear(3 * 36, 3))
    model = watched.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    x = torch.rand(4, 1, 8, 8)
    Watched.seen.clear()
    Deep(deep_layers="1")(model, x, torch.arange(4) % 3)
    assert Watched.seen == [True] * 10


def test_an_objective_is_freed_with_its_last_reference() -> None:
    """Its hooks hang on the graph that it holds; a cycle of the two would be freed by nobody."""
    model, (x, y) = cnn().to(memory_format=torch.channels_last), batch()  # type: ignore[call-overload]
    objective = Deep(eps=0.2).objective(Target(model, choose(model), x, y, cross_entropy))
    objective(objective.start(0.5))
    gone = weakref.ref(objective)
    del objective
    assert gone() is None


def test_hidden_gradients_reach_the_weights_of_a_model_in_training_mode() -> None:
    model, size = small("resnet18")
    x, y = batch(4, size=size)
    found = Deep(eps=0.1)(model.eval(), x, y)
    model.train()
    cross_entropy(found.logits(model), y).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_without_a_budget_nothing_is_perturbed() -> None:
    model, (x, y) = cnn(), batch()
    found = Deep(eps=0.1).at(eps=0)(model, x, y)
    assert torch.equal(found.inputs, x)
    torch.testing.assert_close(found.logits(model), model(x))
    hidden_only = Deep(eps=0, deep_hidden_eps=0.1)(model, x, y)
    assert torch.equal(hidden_only.inputs, x)
    assert not torch.allclose(hidden_only.logits(model), model(x))
    input_only = Deep(eps=0.1, deep_hidden_eps=0)(model, x, y)
    assert not deltas(input_only.hidden)
    assert not torch.equal(input_only.inputs, x)


def test_at_scales_the_hidden_budgets_along() -> None:
    attack = Deep(eps=0.1, deep_hidden_eps=0.04)
    assert attack.at(eps=0.05, step=3) == replace(attack, eps=0.05, deep_hidden_eps=0.02)
    assert attack.at(eps=0.1) == attack
    assert isinstance(attack, Attack)
    assert Deep(eps="8/255").eps == 8 / 255  # type: ignore[arg-type]
    assert all(entry.metadata["help"] for entry in fields(Deep))


def test_a_dead_layer_and_a_saturated_loss_give_finite_perturbations() -> None:
    model, (x, y) = cnn(), batch()
    with torch.no_grad():
        weights = dict(model.named_parameters())
        weights["3.weight"].zero_()
        weights["3.bias"].fill_(-1.0)
        weights["8.bias"].copy_(torch.tensor([1e4, 0.0, 0.0]))
    for solver, variables, rho in SETTINGS:
        found = Deep(eps=0.1, deep_solver=solver, deep_variables=variables, deep_rho=rho)(model, x, y)
        assert found.inputs.isfinite().all()
        assert all(d.isfinite().all() for d in deltas(found.hidden).values())


class Aside(nn.Module):
    """A model with a layer whose output the logits do not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.aside, self.last = nn.Linear(64, 5), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.aside(x.flatten(1))
        logits: Tensor = self.last(x.flatten(1))
        return logits


@pytest.mark.parametrize("variables", ["perturbations", "neurons"])
def test_a_layer_that_the_loss_does_not_depend_on_is_drawn_to_zero(variables: str) -> None:
    torch.manual_seed(0)
    attack = Deep(eps=0.1, deep_layers="aside", deep_variables=variables, deep_steps=8, deep_start=1.0)
    d = deltas(attack(Aside().eval(), *batch()).hidden)["aside"]
    assert d.abs().max() < 1e-3


def test_mixed_precision_runs() -> None:
    model, (x, y) = cnn(), batch()
    for variables in ("perturbations", "neurons"):
        with torch.autocast("cpu", torch.bfloat16):
            found = Deep(eps=0.1, deep_variables=variables)(model, x, y)
            assert found.inputs.dtype == torch.float32
            assert found.logits(model).isfinite().all()


class Odd(nn.Module):
    """A model with a layer that is called twice, one that returns a tuple, one of another batch, and one unused."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.unused, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3)
        self.recurrent, self.windows = nn.LSTM(64, 64, batch_first=True), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.twice(self.twice(x.flatten(1)))
        hidden = self.recurrent(hidden[:, None])[0][:, 0]
        logits: Tensor = self.last(self.windows(hidden.view(-1, 32)).view(-1, 64))
        return logits


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("twice", "deep_layers: twice is called twice in one forward pass"),
        ("recurrent", "deep_layers: recurrent returns a tuple"),
        ("windows", "deep_layers: windows returns shape 10x32, whose first dimension is not the batch of 5"),
        ("unused", "deep_layers: unused takes no part in the forward pass"),
        ("twise", "deep_layers: 'twise' matches no module of the model; near names: twice"),
        ("q*", "deep_layers: 'q\\*' matches no module of the model; its modules begin twice, unused"),
        ("", "deep_layers: '' names no layer"),
    ],
)
def test_refuses_layers_in_one_line_and_leaves_the_model_alone(layers: str, message: str) -> None:
    model, (x, y) = Odd(), batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=message) as caught:
        Deep(eps=0.1, deep_layers=layers)(model, x, y)
    assert "\n" not in str(caught.value)
    assert hooks(model) == 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_hooks_come_off_after_an_exception() -> None:
    model, (x, y) = cnn(), batch()
    calls: Iterator[int] = itertools.count()

    def cost(logits: Tensor, labels: Tensor) -> Tensor:
        if next(calls) == 3:
            raise RuntimeError("the cost failed")
        return cross_entropy(logits, labels)

    with pytest.raises(RuntimeError, match="the cost failed"):
        Deep(eps=0.1)(model, x, y, cost=cost)
    assert hooks(model) == 0
    found = Deep(eps=0.1)(model, x, y)
    with pytest.raises(UserError, match="is not the batch of"), found.hidden(model):
        model(x[:2])
    assert hooks(model) == 0


def test_hidden_names_what_another_model_lacks() -> None:
    hidden = Hidden({"nowhere": torch.zeros(1)})
    with pytest.raises(UserError, match="deep_layers: the model has no module nowhere"):
        hidden(cnn())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("norm", "L1", "norm: 'L1'"),
        ("deep_norm", "L1", "deep_norm: 'L1'"),
        ("deep_rho", "cube", "deep_rho: 'cube'"),
        ("deep_solver", "newton", "deep_solver: 'newton'"),
        ("deep_variables", "neuron", "deep_variables: 'neuron' .*neurons"),
        ("deep_steps", 0, "deep_steps: 0 is not allowed; it must be an integer at least 1"),
        ("deep_lambda", 0.0, "deep_lambda: 0.0 is not allowed"),
        ("deep_hidden_eps", -1.0, "deep_hidden_eps: -1.0 is not allowed"),
        ("deep_start", float("nan"), "deep_start: nan is not allowed"),
        ("eps", 8.0, "eps: 8.0 is not allowed"),
        ("norm", "L1", "norm: 'L1' is not known; allowed: "),
    ],
)
def test_refuses_bad_options(option: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Deep(**{option: value})  # type: ignore[arg-type]


LAYERS: list[tuple[Callable[[], nn.Module], str, list[str]]] = [
    (lambda: small("resnet18")[0], "auto", ["maxpool", "layer1", "layer2", "layer3", "layer4"]),
    (lambda: small("resnet18")[0], "layer[34].*", ["layer3.0", "layer3.1", "layer4.0", "layer4.1"]),
    (lambda: small("resnet18")[0], "layer4, layer1.0.act1", ["layer1.0.act1", "layer4"]),
    (lambda: small("vit")[0], "auto", ["blocks.0", "blocks.1"]),
    (cnn, "auto", ["2", "4", "7"]),
    (cnn, "none", []),
    (lambda: nn.Sequential(cnn()), "6", ["0.6"]),
    (lambda: nn.ModuleDict({"backbone": small("resnet18")[0]}), "layer1", ["backbone.layer1"]),
    (lambda: nn.ModuleDict({"backbone": small("resnet18")[0]}), "backbone.layer1", ["backbone.layer1"]),
    (lambda: nn.ModuleDict({"layer1": nn.Linear(2, 2), "layer2": nn.Linear(2, 2)}), "auto", ["layer1", "layer2"]),
]


@pytest.mark.parametrize(("make", "spec", "expected"), LAYERS)
def test_chooses_layers(make: Callable[[], nn.Module], spec: str, expected: list[str]) -> None:
    assert list(choose(make(), spec)) == expected


def test_auto_says_when_there_is_no_hidden_layer() -> None:
    with pytest.raises(UserError, match="deep_layers: auto finds no hidden layer in Sequential"):
        choose(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


@pytest.mark.parametrize(("solver", "variables", "rho"), SETTINGS)
def test_the_layout_in_memory_changes_nothing_but_rounding(solver: str, variables: str, rho: str) -> None:
    """In float64, so that rounding does not grow over the steps; from the same random start."""
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = cnn().double().to(memory_format=memory_format)  # type: ignore[call-overload]
        x, y = batch(channels=1)
        attack = Deep(eps=0.1, deep_hidden_eps=0.1, deep_solver=solver, deep_variables=variables, deep_rho=rho)
        torch.manual_seed(0)
        found.append(attack(model, x.double().contiguous(memory_format=memory_format), y))
    plain, last = found
    assert torch.allclose(plain.inputs, last.inputs, atol=1e-9)
    for name, delta in deltas(plain.hidden).items():
        assert torch.allclose(delta, deltas(last.hidden)[name], atol=1e-9)
    images = [delta for delta in deltas(last.hidden).values() if delta.dim() == 4]
    assert images
    assert all(delta.is_contiguous(memory_format=torch.channels_last) for delta in images)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_flat_perturbation_is_a_view_of_the_shaped_one(memory_format: torch.memory_format) -> None:
    penalty = Penalty(torch.Size([2, 3, 4, 5]), "L2", 1.0, ball=False, memory_format=memory_format)
    z = torch.randn(2, 3, 4, 5).contiguous(memory_format=memory_format)
    flat = penalty.flat(z)
    assert flat.data_ptr() == z.data_ptr()
    assert torch.equal(penalty.shaped(flat), z)
    part = torch.cat([flat, flat], dim=1)[:, 60:]  # as it lies beside other layers
    assert torch.equal(penalty.shaped(part), z)
