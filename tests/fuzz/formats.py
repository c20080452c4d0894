"""Every file format that is read: how a sound one is made, how it is read, and which changes are tried."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guard import judge, run  # type: ignore[import-not-found]
from mutations import BYTES, CSV, JSON, OBJECTS, Mutator  # type: ignore[import-not-found]
from PIL import Image
from torch import Tensor, nn

from toolkit_ext import backbones, results
from toolkit_ext.attacks import FGSM
from toolkit_ext.data import load
from toolkit_ext.evaluation import Evaluation, evaluate, load_examples, load_protocol
from toolkit_ext.landscape import loss_surface, training_diagnostics
from toolkit_ext.landscape.directions import Plane
from toolkit_ext.trainers import TRAINERS, MethodTrainer, as_classifier

Read = Callable[[Path, Any], Any]


@dataclass(frozen=True)
class Format:
    """A kind of file: ``make`` writes sound ones into a folder, ``file`` is the one to change, ``read`` what it holds.

    ``data`` marks files of numbers, where any change that is read without a word gives another result: of these the
    content is compared with the sound one's. ``checksum`` says that such a change is always noticed.
    """

    make: Callable[[Path, Path], None]
    file: str
    read: Read
    mutators: tuple[Mutator, ...]
    data: bool = False
    checksum: bool = False


def network() -> nn.Module:
    """A linear model of 4 x 4 images and three classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def images(count: int = 24) -> tuple[Tensor, Tensor]:
    """Random images and labels."""
    drawn = torch.Generator().manual_seed(0)
    return torch.rand(count, 1, 4, 4, generator=drawn), torch.arange(count) % 3


def plain(value: Any) -> Any:
    """``value`` with tensors and arrays as bytes, to be compared by ``==``."""
    if isinstance(value, Tensor | np.ndarray):
        array = np.ascontiguousarray(value)
        return str(array.dtype), array.shape, array.tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def copied(name: str) -> Callable[[Path, Path], None]:
    """Makes a copy of a folder of the fixture ``places``."""

    def make(places: Path, folder: Path) -> None:
        shutil.copytree(places / name, folder, dirs_exist_ok=True)

    return make


def read_model(folder: Path, capture: Any) -> Any:
    """The weights of a checkpoint and what it tells."""
    return plain(backbones.load_model(folder).state_dict()), backbones.read_training(folder)


def trainer() -> MethodTrainer:
    """A trainer of :func:`network`."""
    classifier = as_classifier(network(), (1, 4, 4), 3)
    return TRAINERS["fgsm"](classifier, eps=0.1, validation_steps=1, ema_decay=0.9, lr_schedule="constant")


def make_state(places: Path, folder: Path) -> None:
    """A training stopped after its first epoch."""
    trainer().fit(*images(), batch_size=12, nb_epochs=2, stop_after=1, run_dir=folder, progress=False)


def read_state(folder: Path, capture: Any) -> Any:
    """The training's other epoch: its weights, and the figures of both but for the time they took."""
    resumed = trainer()
    resumed.fit(*images(), batch_size=12, nb_epochs=2, run_dir=folder, resume=True, progress=False)
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in resumed.history]
    return plain(resumed.model.state_dict()), rows


def evaluated(folder: Path) -> Evaluation:
    """The evaluation of :func:`network` in ``folder``, made or gone on with."""
    protocol = load_protocol("linf_0.1_digits").at(attacks=("clean", "fgsm"), eps=0.3)
    return evaluate(network(), *images(), protocol, state_dir=folder, batch_size=12, progress=False)


def make_evaluation(places: Path, folder: Path) -> None:
    """A finished evaluation and its adversarial examples."""
    evaluated(folder).examples.save(folder / "examples.safetensors")


def read_evaluation(folder: Path, capture: Any) -> Any:
    """Accuracies and adversarial examples."""
    found = evaluated(folder)
    return found.metrics, plain(found.robust), plain(vars(found.examples))


def read_examples(folder: Path, capture: Any) -> Any:
    """The file of adversarial examples, and the figure that shows it if a record is at hand."""
    return plain(vars(load_examples(folder / "examples.safetensors")))


def make_folder_of_images(places: Path, folder: Path) -> None:
    """Two parts of two classes, and the cache of their decoded images."""
    drawn = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for number in range(2):
                pixels = drawn.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    read_images(folder, None)


def read_images(folder: Path, capture: Any) -> Any:
    """The images, decoded or from the cache."""
    found = load(f"folder:{folder}", cache=folder / "cache")
    return plain([found.x_train, found.y_train, found.x_test, found.y_test])


def make_npz(places: Path, folder: Path) -> None:
    """A data set in a NumPy archive."""
    drawn = np.random.default_rng(0)
    parts: dict[str, Any] = {
        f"x_{part}": drawn.integers(0, 256, (4, 1, 4, 4), dtype=np.uint8) for part in ("train", "test")
    }
    folder.mkdir(exist_ok=True)
    np.savez(folder / "data.npz", **parts, y_train=np.arange(4) % 2, y_test=np.arange(4) % 2)


def read_npz(folder: Path, capture: Any) -> Any:
    """The images of the archive."""
    found = load(f"npz:{folder / 'data.npz'}")
    return plain([found.x_train, found.y_train, found.x_test, found.y_test])


def read_surface(folder: Path, capture: Any) -> Any:
    """The loss along a line of weights in two points, computed or gone on with."""
    model = network()
    plane = Plane(torch.cat([weight.detach().flatten() for weight in model.parameters()]), torch.ones(51))
    return loss_surface(model, FGSM(eps=0.1), *images(), plane, (0.0, 1.0), folder=folder).to_csv()


def make_surface(places: Path, folder: Path) -> None:
    """The finished points of a surface."""
    read_surface(folder, None)


def show(folder: Path, commands: list[list[str]], capture: Any) -> None:
    """Run one of the ``commands``, another one for the next case."""
    number = int("".join(filter(str.isdigit, folder.name)) or 0)
    words = commands[number % len(commands)]
    judge(words, run(words, capture))


def read_records(folder: Path, capture: Any) -> Any:
    """The records, through one of the commands that show them; a broken one is left out with a warning."""
    given = ["--results", str(folder), "--out"]
    kinds = [["plot", *given, "plot.svg", "--kind", kind] for kind in ("accuracy", "attacks")]
    show(folder, [["table", *given, "table.md"], ["report", *given, "page.html"], *kinds], capture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return results.read_records(folder / "runs")


def read_log(folder: Path, capture: Any) -> Any:
    """The log of a training, through one of the commands that show it."""
    plot = ["plot", "--log", str(folder / "log.csv"), "--out", "plot.svg"]
    compare = ["landscape", str(folder), "--what", "training", "--name", "x", "--results", "out"]
    show(folder, [compare, compare, plot], capture)
    return training_diagnostics({"x": folder}).to_csv()


def make_log(places: Path, folder: Path) -> None:
    """A log of epochs and one of batches."""
    folder.mkdir(exist_ok=True)
    shutil.copy(places / "log.csv", folder)
    (folder / "gradients.csv").write_text("batch,grad_norm\n0,0.5\n1,0.25\n2,0.125\n")


def make_protocol(places: Path, folder: Path) -> None:
    """A protocol with every field."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.json").write_text(json.dumps(load_protocol("linf_0.1_digits").to_dict()))


def read_protocol(folder: Path, capture: Any) -> Any:
    """The protocol."""
    return load_protocol(folder / "mine.json").to_dict()


FORMATS: dict[str, Format] = {
    "config.json": Format(copied("model"), "config.json", read_model, JSON),
    "model.safetensors": Format(copied("model"), "model.safetensors", read_model, BYTES, data=True, checksum=True),
    "trainer_state.pt": Format(make_state, "last/trainer_state.pt", read_state, OBJECTS, data=True, checksum=True),
    "evaluation meta.json": Format(make_evaluation, "meta.json", read_evaluation, JSON),
    "evaluation batch": Format(
        make_evaluation, "batch-fgsm-00000.safetensors", read_evaluation, BYTES, data=True, checksum=True
    ),
    "adversarial examples": Format(
        make_evaluation, "examples.safetensors", read_examples, BYTES, data=True, checksum=True
    ),
    "decoded images": Format(make_folder_of_images, "cache/*/images.npy", read_images, BYTES, data=True, checksum=True),
    "NumPy archive": Format(make_npz, "data.npz", read_npz, BYTES, data=True, checksum=True),
    "decoded images about.json": Format(make_folder_of_images, "cache/*/about.json", read_images, JSON),
    "run record": Format(copied("runs"), "runs/*.json", read_records, JSON),
    "log.csv": Format(make_log, "log.csv", read_log, CSV),
    "gradients.csv": Format(make_log, "gradients.csv", read_log, CSV),
    "surface": Format(make_surface, "points-0.json", read_surface, JSON),
    "protocol": Format(make_protocol, "mine.json", read_protocol, JSON),
}
