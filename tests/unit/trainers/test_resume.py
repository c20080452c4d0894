"""A training that was stopped, however rudely, goes on with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from toolkit_ext import backbones
from toolkit_ext.errors import UserError
from toolkit_ext.io import atomic_folder
from toolkit_ext.trainers import TRAINERS, MethodTrainer, PGDTrainer, as_classifier
from toolkit_ext.trainers.state import RunFolder

Data = tuple[Tensor, Tensor]
OPTIONS: dict[str, dict[str, Any]] = {
    "pgd": {"eps": 0.1, "steps": 2, "ema_decay": 0.9, "augment": "crop-flip", "lr_schedule": "cosine"},
    "dual": {"eps": 0.5, "steps": 2, "lr_schedule": "onecycle", "warmup_epochs": 0},
    "amp": {"optimizer": "adam", "lr": 1e-3},
    "awp": {"eps": 0.1, "steps": 2},
    "pas": {"eps": 0.1, "steps": 2, "periods": 2, "eps_per": "batch"},
    "multi_attack": {"eps": 0.1, "steps": 2, "multi_mode": "random"},
    "spectral_norm": {"eps": 0.1, "steps": 2},
    "mim": {"eps": 0.1, "steps": 2, "backend": "art"},
}


def trainer_of(method: str, **options: Any) -> MethodTrainer:
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=3, in_chans=1, image_size=8, width=1)
    return TRAINERS[method](as_classifier(model, (1, 8, 8), 3), **{"lr": 0.05, **options})


def state_of(trainer: MethodTrainer) -> dict[str, Tensor]:
    classifier: PyTorchClassifier = trainer.get_classifier()
    return {name: value.clone() for name, value in classifier.model.state_dict().items()}


def assert_same(first: MethodTrainer, second: MethodTrainer) -> None:
    ours, theirs = state_of(first), state_of(second)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)
    without_time = [[{**row, "seconds": 0} for row in trainer.history] for trainer in (first, second)]
    assert without_time[0] == without_time[1]


# Without options of their own: test_every_method.py goes on with the same bits for every method, in a smaller training.
PLAIN = ("awp", "spectral_norm")


@pytest.mark.parametrize(
    "method", [pytest.param(method, marks=pytest.mark.slow if method in PLAIN else ()) for method in OPTIONS]
)
def test_two_and_two_epochs_are_four(method: str, data: Data, tmp_path: Path) -> None:
    run: dict[str, Any] = {"nb_epochs": 4, "batch_size": 40, "progress": False}
    whole = trainer_of(method, **OPTIONS[method])
    whole.fit(*data, run_dir=tmp_path / "whole", **run)
    half = trainer_of(method, **OPTIONS[method])
    half.fit(*data, run_dir=tmp_path / "parts", stop_after=2, **run)
    assert len(half.history) == 2
    rest = trainer_of(method, **OPTIONS[method])
    rest.fit(*data, run_dir=tmp_path / "parts", resume=True, **run)
    assert_same(whole, rest)
    columns = (tmp_path / "whole" / "log.csv").read_text().splitlines()[0].split(",")
    assert "loss_adversarial" in columns or method == "amp"
    norms = [(tmp_path / folder / "gradients.csv").read_text() for folder in ("whole", "parts")]
    assert norms[0] == norms[1]
    assert (tmp_path / "parts" / "best" / "model.safetensors").exists()


def test_a_constant_schedule_can_be_prolonged(data: Data, tmp_path: Path) -> None:
    run: dict[str, Any] = {"batch_size": 40, "progress": False}
    whole, part = (trainer_of("pgd", eps=0.1, steps=1, lr_schedule="constant") for _ in range(2))
    whole.fit(*data, nb_epochs=4, **run)
    part.fit(*data, nb_epochs=2, run_dir=tmp_path, **run)
    rest = trainer_of("pgd", eps=0.1, steps=1, lr_schedule="constant")
    rest.fit(*data, nb_epochs=4, run_dir=tmp_path, resume=True, **run)
    assert_same(whole, rest)


SCRIPT = """
    import os, signal, sys
    import torch
    sys.path[:0] = [{here!r}]
    from test_resume import trainer_of
    from toolkit_ext import io
    from toolkit_ext.attacks import generation as crafting
    from toolkit_ext.trainers import attack_runner as _craft
    from toolkit_ext.trainers import state as _state

    calls = 0

    def dying(function, at):
        def counted(*args, **kwargs):
            global calls
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return counted

    where, at = {where!r}, {at!r}
    if where == "step":
        _craft.generate = dying(_craft.generate, at)
    elif where == "save":
        torch.save = dying(torch.save, at)
    elif where == "rename":
        os.rename = dying(os.rename, at)
    elif where == "sync":
        io._sync = dying(io._sync, at)
    x, y = torch.load({data!r}, weights_only=True)
    trainer_of("pgd", eps=0.1, steps=2).fit(
        x, y, nb_epochs=3, batch_size=40, progress=False, run_dir={folder!r}, resume=True
    )
"""


# Of the three steps and the saves of each epoch: in the middle of an epoch; while the state is written; before and
# after the old checkpoint is moved aside (each epoch renames "best", if it is better, and "last").
KILLS = [("step", 2), ("step", 5), ("save", 2), ("save", 3), ("rename", 3), ("rename", 4), ("rename", 5), ("sync", 4)]


@pytest.mark.parametrize(
    ("where", "at"), [pytest.param(*kill, marks=[] if kill == ("save", 3) else pytest.mark.slow) for kill in KILLS]
)
def test_kill_minus_nine(where: str, at: int, data: Data, tmp_path: Path) -> None:
    torch.save(data, tmp_path / "data.pt")
    values = {"where": where, "at": at, "data": str(tmp_path / "data.pt"), "folder": str(tmp_path / "run")}
    script = textwrap.dedent(SCRIPT).format(here=str(Path(__file__).parent), **values)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()

    run: dict[str, Any] = {"nb_epochs": 3, "batch_size": 40, "progress": False}
    whole, rest = trainer_of("pgd", eps=0.1, steps=2), trainer_of("pgd", eps=0.1, steps=2)
    whole.fit(*data, **run)
    rest.fit(*data, run_dir=tmp_path / "run", resume=True, **run)
    assert_same(whole, rest)
    kept = backbones.load_model(tmp_path / "run" / "last").state_dict()
    assert all(torch.equal(kept[name], value) for name, value in state_of(whole).items())
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".last")]


def test_a_checkpoint_of_another_run_is_refused(data: Data, tmp_path: Path) -> None:
    run: dict[str, Any] = {"batch_size": 40, "progress": False, "run_dir": tmp_path, "nb_epochs": 1}
    trainer_of("pgd", eps=0.1, steps=1).fit(*data, **run)
    with pytest.raises(UserError, match=r"another run: eps \(0.1 there, 0.2 here\)"):
        trainer_of("pgd", eps=0.2, steps=1).fit(*data, resume=True, **run)
    with pytest.raises(UserError, match="another run: data"):
        trainer_of("pgd", eps=0.1, steps=1).fit(data[0].flip(-1), data[1], resume=True, **run)
    with pytest.raises(UserError, match="holds a run already; give --resume"):
        trainer_of("pgd", eps=0.1, steps=1).fit(*data, **run)


@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_state_is_one_line(damage: str, data: Data, tmp_path: Path) -> None:
    run: dict[str, Any] = {"batch_size": 40, "progress": False, "run_dir": tmp_path, "nb_epochs": 1}
    trainer_of("pgd", eps=0.1, steps=1).fit(*data, **run)
    file = tmp_path / "last" / "trainer_state.pt"
    file.write_bytes(file.read_bytes()[:1000] if damage == "cut" else b"not a checkpoint")
    with pytest.raises(UserError, match="cut short or damaged"):
        trainer_of("pgd", eps=0.1, steps=1).fit(*data, resume=True, **run)


def test_two_runs_do_not_write_one_folder(data: Data, tmp_path: Path) -> None:
    with RunFolder(tmp_path).held(), pytest.raises(UserError, match="another run is writing this folder"):
        trainer_of("pgd", steps=1).fit(*data, run_dir=tmp_path, batch_size=40, nb_epochs=1, progress=False)


def test_an_unwritable_folder_is_one_line(data: Data, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        PGDTrainer(trainer_of("pgd").get_classifier(), lr=0.1).fit(
            *data, run_dir=tmp_path / "file" / "run", nb_epochs=1, batch_size=40
        )


def test_a_full_disk_leaves_the_old_checkpoint(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    run: dict[str, Any] = {"batch_size": 40, "progress": False, "run_dir": tmp_path, "nb_epochs": 3}
    trainer_of("pgd", eps=0.1, steps=1).fit(*data, stop_after=1, **run)
    before = (tmp_path / "last" / "trainer_state.pt").read_bytes()
    real_save = torch.save

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        trainer_of("pgd", eps=0.1, steps=1).fit(*data, resume=True, **run)
    monkeypatch.setattr(torch, "save", real_save)
    assert (tmp_path / "last" / "trainer_state.pt").read_bytes() == before


def test_atomic_folder_keeps_the_old_one_after_an_exception(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "kept") as folder:
        (folder / "a").write_text("old")

    def fail_halfway() -> None:
        with atomic_folder(tmp_path / "kept") as folder:
            (folder / "a").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert (tmp_path / "kept" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_snapshots_are_kept_at_the_resets(data: Data, tmp_path: Path) -> None:
    trainer = trainer_of("pas", eps=0.1, steps=1, periods=3)
    trainer.fit(*data, run_dir=tmp_path, batch_size=40, nb_epochs=6, progress=False)
    assert sorted(path.name for path in tmp_path.glob("snapshot-*")) == ["snapshot-002", "snapshot-004"]
    with torch.no_grad():
        assert backbones.load_model(tmp_path / "snapshot-002")(data[0][:2]).shape == (2, 3)
