"""Dependencies point one way and end at public names: the imports of every file, read without running it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "toolkit_ext"
ROOT = Path(__file__).parents[1]

BASE = {"batch", "bounds", "devices", "errors", "io", "own_code", "random_state", "tensors", "types", "units"}
AXES = {"attacks", "objectives", "updates", "schedules"}
# What each part of the package may import of it, besides itself. An axis folder has no other axis in its row, and
# neither evaluation nor landscape has the trainers.
PARTS: dict[str, set[str]] = {
    "batch": set(),
    "bounds": {"errors"},
    "devices": {"errors"},
    "errors": set(),
    "io": {"errors"},
    "own_code": {"errors"},
    "random_state": set(),
    "ranks": {"errors"},
    "tensors": {"types"},
    "types": {"batch", "bounds", "errors"},
    "units": {"errors", "types"},
    "fast": BASE,
    "attacks": BASE,
    "objectives": BASE,
    "updates": BASE,
    "schedules": BASE,
    "backbones": BASE | {"data"},
    "data": BASE,
    "results": BASE,
    "evaluation": BASE | {"attacks", "backbones", "data", "fast", "ranks"},
    "landscape": BASE | {"attacks", "backbones", "data", "evaluation", "results"},
    "report": BASE | {"data", "evaluation", "results"},
    "trainers": BASE | AXES | {"backbones", "data", "fast", "ranks"},
}
# Above the trainers: these put the parts together, and none of the parts may import them.
ABOVE = {"claims", "cli", "experiments", "programme"}

# Libraries that a few files wrap, and nothing else may know.
WRAPPED: dict[str, tuple[str, ...]] = {
    "art": (
        "attacks/adapters.py",
        "backbones/estimators.py",
        "evaluation/",
        "trainers/base.py",
        "trainers/fingerprint.py",
        "trainers/generators.py",
        "trainers/loss.py",
    ),
    "torchattacks": ("attacks/adapters.py",),
    "pyautoattack": ("evaluation/",),
    "optuna": ("experiments/studies.py", "experiments/tuning.py", "cli/jobs/tune.py"),
    "accelerate": ("ranks/launch.py", "trainers/tracking.py"),
}


def imported(tree: ast.AST, module: str) -> Iterator[str]:
    """Full names of what ``module`` imports anywhere in its file, such as ``toolkit_ext.data.load``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part_of(name: str) -> str:
    """``data`` for ``toolkit_ext.data.load``; the empty text for the package itself."""
    return name.split(".")[1] if "." in name else ""


def violations(root: Path) -> list[str]:
    """One line for each import in ``root/toolkit_ext`` that points the wrong way."""
    found = []
    for file in sorted((root / PACKAGE).rglob("*.py")):
        relative = file.relative_to(root / PACKAGE).as_posix()
        # Of __init__.py the dots count from the folder itself.
        module = ".".join([PACKAGE, *relative.removesuffix(".py").split("/")])
        part = relative.split("/")[0].removesuffix(".py")
        names = set(imported(ast.parse(file.read_text()), module))
        found += [f"{relative} imports {name}" for name in sorted(names) if not allowed(part, relative, name)]
    return found


def allowed(part: str, file: str, name: str) -> bool:
    """Whether ``file`` of ``part`` may import ``name``."""
    library = name.split(".")[0]
    if library != PACKAGE:
        return any(file == place or file.startswith(place) for place in WRAPPED.get(library, (file,)))
    target = part_of(name)
    if target not in PARTS.keys() | ABOVE:
        return part == "__init__" or target.startswith("__")  # the package's own attributes, such as __version__
    if part == "__init__":
        return target in BASE | {"backbones"}
    return target == part or part in ABOVE or target in PARTS.get(part, set())


SCRIPTS = ("recipes", "eval", "benchmarks", "docs")


def private_names(tree: ast.AST, module: str) -> Iterator[str]:
    """Private names that ``module`` takes from another part of the package, by import or as ``imported._name``."""
    bound = dict(bindings(tree, module))
    chains = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    # The call in data.load(x).y ends what the text alone can follow.
    heads = [chain.split(".", 1) for chain in chains if re.fullmatch(r"[\w.]+", chain)]
    used = [f"{bound[head]}.{rest}" for head, rest in heads if head in bound]
    own = part_of(module) if module.startswith(f"{PACKAGE}.") else ""
    for name in sorted({*imported(tree, module), *used}):
        words = name.split(".")
        private = any(word.startswith("_") and not word.endswith("__") for word in words)
        if words[0] == PACKAGE and private and not (own and part_of(name) == own):
            yield name


def bindings(tree: ast.AST, module: str) -> Iterator[tuple[str, str]]:
    """The names that imports bind, and their full names: ``("load", "toolkit_ext.data.load")``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias, name in zip(node.names, imported(node, module), strict=True):
                # ``import toolkit_ext.data`` binds ``toolkit_ext``.
                short = name if isinstance(node, ast.ImportFrom) else name.split(".")[0]
                yield (alias.asname, name) if alias.asname else (alias.name.split(".")[0], short)


def private_violations(root: Path) -> list[str]:
    """One line for each private name of the package that a file in ``root`` uses from outside its part."""
    files = [file for folder in (PACKAGE, *SCRIPTS) for file in sorted((root / folder).rglob("*.py"))]
    found = []
    for file in files:
        relative = file.relative_to(root).as_posix()
        module = ".".join(relative.removesuffix(".py").split("/"))
        found += [f"{relative} imports {name}" for name in private_names(ast.parse(file.read_text()), module)]
    return found


def test_imports_point_one_way() -> None:
    assert violations(ROOT) == []


def test_private_names_stay_in_their_part() -> None:
    assert private_violations(ROOT) == []


def test_every_part_is_in_the_table() -> None:
    entries = {entry for entry in (ROOT / PACKAGE).iterdir() if entry.suffix == ".py" or any(entry.glob("*.py"))}
    parts = {entry.name.removesuffix(".py") for entry in entries if entry.name != "__pycache__"}
    assert parts - {"__init__"} - ABOVE <= PARTS.keys(), "say in PARTS what a new part may import"


def test_recipes_are_scripts_that_nothing_imports() -> None:
    files = [file for folder in (PACKAGE, "eval", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    names = [(file, name) for file in files for name in imported(ast.parse(file.read_text()), "script")]
    assert not [(file, name) for file, name in names if name.split(".")[0] == "recipes"]


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(text + "\n")


WRONG = {
    "one axis imports another": ("objectives/new.py", "from toolkit_ext.attacks import generate"),
    "of the package itself": ("updates/new.py", "from toolkit_ext import schedules"),
    "with dots": ("attacks/deep/new.py", "from ...objectives import OBJECTIVES"),
    "with dots, in __init__": ("attacks/__init__.py", "from .. import trainers"),
    "with import": ("schedules/new.py", "import toolkit_ext.trainers.loop"),
    "inside a function": ("evaluation/new.py", "def late():\n    from toolkit_ext.trainers import TRAINERS"),
    "for types alone": ("landscape/new.py", "if TYPE_CHECKING:\n    from toolkit_ext.trainers import MethodTrainer"),
    "upwards": ("trainers/new.py", "from toolkit_ext.experiments.experiment import run"),
    "types import an axis": ("types.py", "from toolkit_ext.attacks import PGD"),
    "a part that is not in the table": ("trainers/other.py", "from toolkit_ext.helpers import anything"),
    "ART in a method's file": ("trainers/new.py", "from art.defences.trainer import Trainer"),
    "ART in the results": ("results/new.py", "import art"),
    "torchattacks in an objective": ("objectives/new.py", "import torchattacks"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_import_is_seen(case: str, tmp_path: Path) -> None:
    place, text = WRONG[case]
    write(tmp_path / PACKAGE / place, text)
    assert [line.split(" imports ")[0] for line in violations(tmp_path)] == [place]


RIGHT = {
    "types": ("attacks/new.py", "from toolkit_ext.types import Perturbed"),
    "its own part": ("attacks/deep/new.py", "from ..gradient import PGD\nfrom toolkit_ext.attacks.deep import other"),
    "its own part, in __init__": ("attacks/__init__.py", "from .gradient import PGD"),
    "an axis from the trainers": ("trainers/new.py", "from toolkit_ext.attacks import PGD"),
    "ART in its adapter": ("attacks/adapters.py", "from art.attacks.evasion import FastGradientMethod"),
    "a library like ART's name": ("results/new.py", "import artistic"),
    "the version": ("results/new.py", "from toolkit_ext import __version__"),
    "anything from the command line": ("cli/new.py", "from toolkit_ext import experiments, trainers"),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_right_import_is_let_through(case: str, tmp_path: Path) -> None:
    place, text = RIGHT[case]
    write(tmp_path / PACKAGE / place, text)
    assert violations(tmp_path) == []


WRONG_PRIVATE = {
    "a function": ("toolkit_ext/trainers/new.py", "from toolkit_ext.data.tensors import _check_range"),
    "with another name": ("toolkit_ext/trainers/new.py", "from toolkit_ext.data.tensors import _check_range as check"),
    "a module": ("toolkit_ext/trainers/new.py", "from toolkit_ext.data import _tensors"),
    "from a module": ("toolkit_ext/trainers/new.py", "from toolkit_ext.data._tensors import check"),
    "with import": ("toolkit_ext/trainers/new.py", "import toolkit_ext.data._tensors"),
    "with dots": ("toolkit_ext/trainers/methods/new.py", "from ...data import _tensors"),
    "inside a function": ("toolkit_ext/cli/new.py", "def late():\n    from toolkit_ext.data import _tensors"),
    "for types alone": ("toolkit_ext/cli/new.py", "if TYPE_CHECKING:\n    from toolkit_ext.data import _Kind"),
    "of a module above": ("toolkit_ext/trainers/new.py", "from toolkit_ext.io import _write"),
    "in the package's own file": ("toolkit_ext/__init__.py", "from toolkit_ext.data import _tensors"),
    "of the package's own file": ("toolkit_ext/data/new.py", "from toolkit_ext import _register"),
    "as an attribute": ("toolkit_ext/cli/new.py", "from toolkit_ext.data import tensors\ntensors._check_range(1)"),
    "as an attribute, with import": ("toolkit_ext/cli/new.py", "import toolkit_ext.io\ntoolkit_ext.io._write('')"),
    "as an attribute, renamed": ("toolkit_ext/cli/new.py", "from toolkit_ext import data as d\nprint(d._checks)"),
    "in a recipe": ("recipes/claims/new.py", "from toolkit_ext.data.tensors import _check_range"),
    "in a recipe of the part's name": ("recipes/claims/new.py", "from toolkit_ext.claims import _claim"),
    "in an evaluation script": ("eval/new.py", "from toolkit_ext.data import _tensors"),
    "in a benchmark": ("benchmarks/new.py", "from toolkit_ext.data import _tensors"),
    "in a script of the docs": ("docs/new.py", "from toolkit_ext.data import _tensors"),
}


@pytest.mark.parametrize("case", WRONG_PRIVATE)
def test_a_private_name_of_another_part_is_seen(case: str, tmp_path: Path) -> None:
    place, text = WRONG_PRIVATE[case]
    write(tmp_path / place, text)
    assert [line.split(" imports ")[0] for line in private_violations(tmp_path)] == [place]


RIGHT_PRIVATE = {
    "a public name": ("toolkit_ext/trainers/new.py", "from toolkit_ext.data.tensors import check_images"),
    "its own part": ("toolkit_ext/data/new.py", "from toolkit_ext.data._tensors import _check_range"),
    "its own part, with dots": ("toolkit_ext/attacks/deep/new.py", "from .._art import _Adapter"),
    "a module of its own": ("toolkit_ext/io.py", "from toolkit_ext.io import _write"),
    "the version": ("toolkit_ext/results/new.py", "from toolkit_ext import __version__"),
    "of another library": ("toolkit_ext/ranks/new.py", "from torch.distributed.distributed_c10d import _get_store"),
    "of another library, in a script": ("benchmarks/new.py", "import torch._dynamo"),
    "a name that a script makes private": ("recipes/new.py", "from toolkit_ext.data import load as _load\n_load('x')"),
    "an attribute of a call": ("toolkit_ext/cli/new.py", "from toolkit_ext import data\ndata.load(self._name)._x"),
    "an attribute of itself": ("toolkit_ext/cli/new.py", "from toolkit_ext import data\nself._data = data"),
}


@pytest.mark.parametrize("case", RIGHT_PRIVATE)
def test_a_private_name_of_its_own_part_is_let_through(case: str, tmp_path: Path) -> None:
    place, text = RIGHT_PRIVATE[case]
    write(tmp_path / place, text)
    assert private_violations(tmp_path) == []
