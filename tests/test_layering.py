"""Dependencies point one way: the imports of every file, read without running it, against the table below."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "toolkit_ext"
ROOT = Path(__file__).parents[1]

BASE = {"errors", "io", "types", "units"}
AXES = {"attacks", "objectives", "updates", "schedules"}
# What each part of the package may import of it, besides itself. An axis folder has no other axis in its row, and
# neither evaluation nor landscape has the trainers.
PARTS: dict[str, set[str]] = {
    "errors": set(),
    "io": {"errors"},
    "ranks": {"errors"},
    "types": {"errors"},
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
ABOVE = {"claims", "experiments", "cli"}

# Libraries that a few files wrap, and nothing else may know.
WRAPPED: dict[str, tuple[str, ...]] = {
    "art": (
        "attacks/_art.py",
        "backbones/estimators.py",
        "evaluation/",
        "trainers/base.py",
        "trainers/batches.py",
        "trainers/optim.py",
    ),
    "torchattacks": ("attacks/_torchattacks.py",),
    "pyautoattack": ("evaluation/",),
    "accelerate": ("ranks/_start.py",),
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


def test_imports_point_one_way() -> None:
    assert violations(ROOT) == []


def test_every_part_is_in_the_table() -> None:
    entries = {entry for entry in (ROOT / PACKAGE).iterdir() if entry.suffix == ".py" or any(entry.glob("*.py"))}
    parts = {entry.name.removesuffix(".py") for entry in entries if entry.name != "__pycache__"}
    assert parts - {"__init__"} - ABOVE <= PARTS.keys(), "say in PARTS what a new part may import"


def test_recipes_are_scripts_that_nothing_imports() -> None:
    files = [file for folder in (PACKAGE, "eval", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    names = [(file, name) for file in files for name in imported(ast.parse(file.read_text()), "script")]
    assert not [(file, name) for file, name in names if name.split(".")[0] == "recipes"]


WRONG = {
    "one axis imports another": ("objectives/new.py", "from toolkit_ext.attacks import craft"),
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
    file = tmp_path / PACKAGE / place
    file.parent.mkdir(parents=True)
    file.write_text(text + "\n")
    assert [line.split(" imports ")[0] for line in violations(tmp_path)] == [place]


RIGHT = {
    "types": ("attacks/new.py", "from toolkit_ext.types import Perturbed"),
    "its own part": ("attacks/deep/new.py", "from ..gradient import PGD\nfrom toolkit_ext.attacks.deep import other"),
    "its own part, in __init__": ("attacks/__init__.py", "from .gradient import PGD"),
    "an axis from the trainers": ("trainers/new.py", "from toolkit_ext.attacks import PGD"),
    "ART in its adapter": ("attacks/_art.py", "from art.attacks.evasion import FastGradientMethod"),
    "a library like ART's name": ("results/new.py", "import artistic"),
    "the version": ("results/new.py", "from toolkit_ext import __version__"),
    "anything from the command line": ("cli/new.py", "from toolkit_ext import experiments, trainers"),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_right_import_is_let_through(case: str, tmp_path: Path) -> None:
    place, text = RIGHT[case]
    file = tmp_path / PACKAGE / place
    file.parent.mkdir(parents=True)
    file.write_text(text + "\n")
    assert violations(tmp_path) == []
