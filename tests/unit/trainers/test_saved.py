"""What a run saves can be read again, is the model that was trained, and any damage to it is told."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from toolkit_ext.backbones import Normalized, create, load_model, save_model
from toolkit_ext.errors import UserError
from toolkit_ext.trainers import PGDTrainer, as_classifier
from toolkit_ext.trainers.state import RunFolder
from toolkit_ext.units import plain

Data = tuple[Tensor, Tensor]
LOOP: dict[str, Any] = {"nb_epochs": 2, "batch_size": 60, "progress": False}


def lenet(**given: Any) -> Normalized:
    torch.manual_seed(0)
    return create("lenet", **{"num_classes": 3, "in_chans": 1, "image_size": 8, "width": 1, **given})


def trainer_of(**options: Any) -> PGDTrainer:
    return PGDTrainer(as_classifier(lenet(), (1, 8, 8), 3), **{"eps": 0.1, "steps": 1, "measure_every": 0, **options})


SCALARS: dict[str, dict[str, Any]] = {
    "float64": {"lr": np.float64(0.05)},
    "float32": {"lr": np.float32(0.05), "momentum": np.float32(0.5), "lr_schedule": "cosine"},
    "integers": {"steps": np.int64(2), "seed": np.uint8(3)},
    "text and truth": {"augment": np.str_("flip"), "sync_batch_norm": np.bool_(False)},
    "in a tuple": {"lr_schedule": "multistep", "milestones": (np.int64(1),)},
    "of no dimension": {"weight_decay": np.array(0.01)},
}


@pytest.mark.parametrize("case", SCALARS)
def test_a_run_with_numpy_scalars_resumes_like_one_without(case: str, data: Data, tmp_path: Path) -> None:
    options, told = SCALARS[case], {"told": np.float32(0.5)}
    whole = trainer_of(**plain(options))
    whole.fit(*data, **LOOP)
    trainer_of(**options).fit(*data, run_dir=tmp_path, stop_after=1, extra=told, **LOOP)
    rest = trainer_of(**options)
    rest.fit(*data, run_dir=tmp_path, resume=True, extra=told, **LOOP)
    assert all(map(torch.equal, whole.model.state_dict().values(), rest.model.state_dict().values()))
    assert json.loads((tmp_path / "last" / "config.json").read_text())["toolkit_ext"]["told"] == 0.5


@pytest.mark.parametrize("value", [Fraction(1, 20), Path("x"), np.zeros(2), {1, 2}, print], ids=str)
def test_what_no_checkpoint_can_hold_is_refused_at_the_first_save(value: Any, data: Data, tmp_path: Path) -> None:
    trainer = trainer_of()
    kept = RunFolder(tmp_path / "run")
    state = {"fingerprint": {"lr": 0.1, "deep": [1, {"inside": value}]}}
    if isinstance(value, set):  # which torch reads
        kept.save("last", lenet(), {}, state)
        return
    told = rf"state\.fingerprint\.deep\[1\]\.inside is a {type(value).__name__}; use numbers, texts and tensors"
    with pytest.raises(UserError, match=told):
        kept.save("last", lenet(), {}, state)
    assert not list((tmp_path / "run").iterdir())
    with pytest.raises(UserError, match=r"^extra: .*give names with plain JSON values"):
        trainer.fit(*data, run_dir=tmp_path / "fit", extra={"told": value}, **LOOP)
    assert trainer.history == []
    assert not (tmp_path / "fit" / "last").exists()


def wrapped(model: Normalized) -> dict[str, nn.Module]:
    inside = lenet()
    inside.backbone = torch.compile(inside.backbone, backend="eager")  # type: ignore[assignment]
    part: Any = lenet()
    part.backbone.fc = torch.compile(part.backbone.fc, backend="eager")
    return {
        "compiled": torch.compile(model, backend="eager"),  # type: ignore[dict-item]
        "its backbone compiled": inside,
        "a layer compiled": part,
        "parallel": nn.DataParallel(model),
        "averaged": AveragedModel(model),
        "averaged and compiled": torch.compile(AveragedModel(model), backend="eager"),  # type: ignore[dict-item]
    }


def test_what_is_wrapped_is_saved_without_its_wrapper(tmp_path: Path) -> None:
    x = torch.rand(4, 1, 8, 8)
    for number, (case, model) in enumerate(wrapped(lenet()).items()):
        for save in (save_model, lambda model, folder: RunFolder(folder.parent).save(folder.name, model, {})):
            save(model, tmp_path / f"model{number}")
            assert torch.equal(load_model(tmp_path / f"model{number}")(x), lenet().eval()(x)), case


class Scaled(Normalized):
    """Has a pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def _subclass(model: Any) -> None:
    model.__class__ = Scaled


def _head(model: Any) -> None:
    model.backbone.fc = nn.Sequential(model.backbone.fc, nn.ReLU(), nn.Linear(3, 3))


def _hook(model: Any) -> None:
    model.backbone.register_forward_hook(lambda *found: found[-1] + torch.arange(3.0))


def _weight_norm(model: Any) -> None:
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model.backbone.fc)


def _layers(model: Any, found: type[nn.Module], new: Callable[[], nn.Module]) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, found):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, new())


CHANGED: dict[str, Callable[[Any], Any]] = {
    "added head": _head,
    "added layer": lambda model: model.backbone.add_module("extra", nn.Linear(2, 2)),
    "pruned": lambda model: prune.l1_unstructured(model.backbone.fc, "weight", 0.5),
    "old weight norm": _weight_norm,
    "own pass": _subclass,
    "hook": _hook,
    "other normalisation": lambda model: setattr(
        model.backbone, "fc", nn.Sequential(nn.LayerNorm(64), model.backbone.fc)
    ),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_model_that_its_checkpoint_would_not_give_is_refused_before_any_epoch(
    case: str, data: Data, tmp_path: Path
) -> None:
    model = lenet()
    CHANGED[case](model)
    with pytest.raises(UserError, match=r"^backbone: .*'lenet'.*; layers of your own belong in") as caught:
        save_model(model, tmp_path / "model")
    assert len(str(caught.value).splitlines()) == 1
    assert not list((tmp_path / "model").iterdir())
    trainer = PGDTrainer(as_classifier(model, (1, 8, 8), 3), eps=0.1, steps=1)
    with pytest.raises(UserError, match=r"^backbone: "):
        trainer.fit(*data, run_dir=tmp_path / "run", **LOOP)
    assert trainer.history == []
    assert not (tmp_path / "run" / "last").exists()


def test_a_replaced_last_layer_and_parametrised_weights_are_saved(tmp_path: Path) -> None:
    model: Any = lenet(num_classes=10)
    model.backbone.fc = nn.Linear(model.backbone.fc.in_features, 3)
    parametrizations.weight_norm(model.backbone.fc)
    loaded = load_model(save_model(model, tmp_path))
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(loaded(x), model.eval()(x))
    assert loaded.num_classes == 3


def test_the_weights_of_an_own_module_are_kept_and_the_loader_says_so(tmp_path: Path) -> None:
    own = nn.Sequential(lenet(), nn.Linear(3, 3))
    RunFolder(tmp_path).save("last", own, {"seed": 0}, {"fingerprint": {}})
    with pytest.raises(UserError, match=r"holds the weights of a module of your own, 'Sequential'; make it and load"):
        load_model(tmp_path / "last")
    again = nn.Sequential(lenet(width=1), nn.Linear(3, 3))
    safetensors.torch.load_model(again, tmp_path / "last" / "model.safetensors")
    assert all(map(torch.equal, own.state_dict().values(), again.state_dict().values()))
    with pytest.raises(UserError, match="is not of toolkit_ext"):
        save_model(own, tmp_path / "model")


@pytest.mark.parametrize("name", ["trainer_state.pt", "config.json", "model.safetensors"])
def test_any_damage_to_a_checkpoint_is_told_or_means_nothing(name: str, tmp_path: Path, damage: Any) -> None:
    model, folder = lenet(), RunFolder(tmp_path)
    state = {"fingerprint": {"lr": 0.1, "steps": 3}, "model": model.state_dict(), "history": [{"loss": 0.25}]}
    folder.save("last", model, {"hyper_parameters": {"eps": 0.1, "norm": "Linf"}}, state)
    expected = safetensors.torch.save(model.state_dict())

    def read() -> bool:
        loaded, found = load_model(tmp_path / "last"), folder.load()
        assert found is not None
        same = [safetensors.torch.save(weights) == expected for weights in (loaded.state_dict(), found["model"])]
        facts = (found["fingerprint"], found["history"]) == (state["fingerprint"], state["history"])
        return facts and torch.equal(loaded.mean, model.mean) and torch.equal(loaded.std, model.std) and all(same)

    told = damage(tmp_path / "last" / name, read, 150)
    assert told > (145 if name == "config.json" else 149)


def test_a_state_without_a_checksum_is_used_and_said_to_be(
    data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer_of().fit(*data, run_dir=tmp_path, stop_after=1, **LOOP)
    path = tmp_path / "last" / "config.json"
    config = json.loads(path.read_text())
    config["toolkit_ext"] = {}
    path.write_text(json.dumps(config))
    whole, rest = trainer_of(), trainer_of()
    whole.fit(*data, **LOOP)
    with caplog.at_level(logging.WARNING, "toolkit_ext"):
        rest.fit(*data, run_dir=tmp_path, resume=True, **LOOP)
    assert [record.getMessage().count("has no checksum") for record in caplog.records] == [1]
    assert all(map(torch.equal, whole.model.state_dict().values(), rest.model.state_dict().values()))


def test_a_state_that_does_not_fit_is_one_line(data: Data, tmp_path: Path) -> None:
    """It was saved with another model, or is not complete."""
    trainer_of().fit(*data, run_dir=tmp_path, stop_after=1, **LOOP)
    wider = PGDTrainer(as_classifier(lenet(width=2), (1, 8, 8), 3), eps=0.1, steps=1, measure_every=0)
    with pytest.raises(UserError, match=r"^resume: the checkpoint is of another run: trained_weights") as caught:
        wider.fit(*data, run_dir=tmp_path, resume=True, **LOOP)
    assert len(str(caught.value).splitlines()) == 1
    kept = RunFolder(tmp_path)
    state = kept.load()
    assert state is not None
    kept.save("last", lenet(), {}, {name: value for name, value in state.items() if name != "trace"})
    with pytest.raises(UserError, match=r"^resume: the saved state does not fit .*: it lacks 'trace'$"):
        trainer_of().fit(*data, run_dir=tmp_path, resume=True, **LOOP)


@pytest.mark.parametrize("what", ["gone", "a folder", "of another program", "no configuration"])
def test_a_state_that_cannot_be_used_is_one_line(what: str, data: Data, tmp_path: Path) -> None:
    trainer_of().fit(*data, run_dir=tmp_path, stop_after=1, **LOOP)
    file = tmp_path / "last" / "trainer_state.pt"
    if what == "no configuration":
        file.with_name("config.json").unlink()
    else:
        file.unlink()
    if what == "a folder":
        file.mkdir()
    elif what == "of another program":
        torch.save([1, 2, 3], file)
    with pytest.raises(UserError, match=r"^checkpoint .*/last/\S+: cannot be read") as caught:
        trainer_of().fit(*data, run_dir=tmp_path, resume=True, **LOOP)
    assert len(str(caught.value).splitlines()) == 1
