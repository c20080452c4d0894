"""Lightning: the callback that evaluates robustness, and our optimisers as the module's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Protocol, evaluate
from toolkit_ext.updates import AMP, AWP, DualOptimizer

X, Y = torch.rand(48, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3
QUICK = Protocol("quick", "Linf", 0.02, attacks=("clean", "pgd20"))
pytestmark = pytest.mark.filterwarnings("default")  # Lightning warns of slow loaders and old names


def test_without_lightning_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "toolkit_ext.evaluation.lightning", raising=False)
    with pytest.raises(UserError, match=r"^lightning: is not installed; pip install 'toolkit-ext\[lightning\]'$"):
        __import__("toolkit_ext.evaluation.lightning")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def batches() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=16)


def pair(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two losses: on the images, and on brighter ones, which stand for attacked ones."""
    return F.cross_entropy(model(x), y), F.cross_entropy(model(x + 0.1), y)


@pytest.fixture
def pl() -> Any:
    return pytest.importorskip("lightning.pytorch")


@pytest.fixture
def train(pl: Any, tmp_path: Path) -> Any:
    """Train ``module`` for ``epochs``; the trainer."""

    def run(module: Any, epochs: int = 2, validate: bool = True, resume: Any = None, **options: Any) -> Any:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        where = {"accelerator": "cpu", "devices": 1, "default_root_dir": tmp_path, "enable_checkpointing": False}
        trainer = pl.Trainer(max_epochs=epochs, **{**quiet, **where, **options})
        trainer.fit(module, batches(), batches() if validate else None, ckpt_path=resume)
        return trainer

    return run


@pytest.fixture
def module(pl: Any) -> Any:
    """A module whose ``optimizer`` is made of its parameters; with ``manual``, that steps it with a pair of losses."""

    def make(optimizer: Any, manual: bool = False) -> Any:
        class Module(pl.LightningModule):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.net, self.automatic_optimization = net(), not manual

            def forward(self, x: Tensor) -> Tensor:
                return self.net(x)  # type: ignore[no-any-return]

            def configure_optimizers(self) -> Any:
                return optimizer(self.parameters())

            def training_step(self, batch: Any, index: int) -> Any:
                if not manual:
                    return F.cross_entropy(self(batch[0]), batch[1])
                return self.optimizers().step(closure=lambda: pair(self, *batch)) and None

            def validation_step(self, batch: Any, index: int) -> None:
                self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

        return Module()

    return make


def sgd(parameters: Any) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def dual(parameters: Any) -> DualOptimizer:
    shared = list(parameters)
    return DualOptimizer(sgd(shared), torch.optim.Adam(shared, lr=1e-3))


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


@pytest.mark.parametrize("validate", [True, False])
def test_it_logs_what_evaluate_finds_and_changes_nothing(validate: bool, train: Any, module: Any) -> None:
    from toolkit_ext.evaluation.lightning import RobustnessCallback

    plain, watched = module(sgd), module(sgd)
    train(plain, validate=validate)
    robustness = RobustnessCallback(batches(), QUICK, limit=20, batch_size=8)
    trainer = train(watched, validate=validate, callbacks=[robustness])
    assert same(plain, watched)
    expected = evaluate(watched.net, X[:20], Y[:20], QUICK, batch_size=8, progress=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.endswith("_acc")}
    assert logged == {f"val_{name}": pytest.approx(value) for name, value in expected.metrics.items()}
    assert robustness.evaluation is not None
    assert robustness.evaluation.metrics == expected.metrics
    assert 0 < expected.metrics["pgd20_acc"] < 1


@pytest.mark.parametrize(("every", "measured"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (7, [])])
def test_it_evaluates_every_few_epochs_and_when_asked(
    every: int, measured: list[int], train: Any, module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit_ext.evaluation import lightning

    epochs: list[int] = []

    def noting(model: Any, *args: Any, **options: Any) -> Any:
        epochs.append(model.trainer.current_epoch + 1)
        return evaluate(model, *args, **options)

    monkeypatch.setattr(lightning, "evaluate", noting)
    robustness = lightning.RobustnessCallback((X[:4], Y[:4]), QUICK, every=every)
    trained = module(sgd)
    trainer = train(trained, epochs=5, callbacks=[robustness])
    assert epochs == measured
    trainer.validate(trained, batches(), verbose=False)
    assert len(epochs) == len(measured) + 1


def test_what_is_attacked_can_be_chosen(train: Any, module: Any) -> None:
    """A module of images shifted by a half, attacked through one that shifts them."""
    from toolkit_ext.evaluation.lightning import RobustnessCallback

    class Shifted(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x - 0.5)  # type: ignore[no-any-return]

    trained = module(sgd)
    robustness = RobustnessCallback((X, Y), QUICK, model=lambda given: Shifted(given.net), prefix="shifted/")
    trainer = train(trained, epochs=1, callbacks=[robustness])
    expected = evaluate(Shifted(trained.net), X, Y, QUICK, progress=False).metrics["pgd20_acc"]
    assert float(trainer.callback_metrics["shifted/pgd20_acc"]) == pytest.approx(expected)


@pytest.mark.parametrize(("option", "value"), [("every", 0), ("limit", 0), ("every", 1.5), ("protocol", "lnf_8_255")])
def test_bad_options_are_one_line(option: str, value: Any, pl: Any) -> None:
    from toolkit_ext.evaluation.lightning import RobustnessCallback

    with pytest.raises(UserError, match=rf"^{option}: "):
        RobustnessCallback((X, Y), **{"protocol": QUICK, option: value})


def test_the_dual_optimiser_is_a_modules_own(train: Any, module: Any) -> None:
    """Lightning's loop and ours give the same bits, also where Lightning stops and goes on."""
    ours = net()
    optimizer = dual(ours.parameters())
    for _ in range(2):
        for x, y in batches():
            optimizer.step(lambda x=x, y=y: pair(ours, x, y))  # type: ignore[misc]
    trained = module(dual, manual=True)
    train(trained)
    assert same(ours, trained.net)
    stopped, resumed = module(dual, manual=True), module(dual, manual=True)
    first = train(stopped, epochs=1)
    path = Path(first.default_root_dir) / "stopped.ckpt"
    first.save_checkpoint(path)
    train(resumed, resume=path)
    assert same(ours, resumed.net)
    assert not same(ours, stopped.net)


@pytest.mark.parametrize("make", [AMP, AWP])
def test_the_perturbed_optimisers_need_nothing_special(make: Any, train: Any, module: Any) -> None:
    """Lightning gives its own closure to the optimiser, which calls it once per pass."""
    ours = net()
    optimizer = make(sgd(ours.parameters()))

    def closure(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(ours(x), y)
        torch.autograd.backward(loss)
        return loss

    for x, y in batches():
        optimizer.step(lambda x=x, y=y: closure(x, y))  # type: ignore[misc]
    trained = module(lambda parameters: make(sgd(parameters)))
    train(trained, epochs=1)
    assert same(ours, trained.net)
