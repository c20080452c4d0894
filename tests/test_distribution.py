"""The wheel and the sdist install and run where the repository is not."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "toolkit_ext"
_MAY_BE_MISSING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Try)  # what is imported there
_OF_EXTRAS = {"studies.py": "optuna", "tuning.py": "optuna"}  # files that are imported only where an extra is
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
pytest.importorskip("build", reason="the extra test is not installed")


def _run(*words: str | Path, cwd: Path) -> str:
    """What a program prints, without the settings of this process that would let it find the repository."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist, and the wheel made from it, by suffix."""
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", ROOT, "--outdir", folder, cwd=folder)
    return {path.suffix: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def python(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an empty environment with the wheel; it takes the dependencies from this one."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    made = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    _run(sys.executable, "-m", "pip", "--python", made, "install", "--no-deps", "--no-index", built[".whl"], cwd=folder)
    packages = Path(_run(made, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # A path file adds this folder, but not what path files in it add: an editable installation stays out.
    (packages / "dependencies.pth").write_text(str(Path(pytest.__file__).parents[1]))
    return made


def _packaged() -> set[str]:
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    protocols = (ROOT / "eval" / "protocols").iterdir()
    found = {path.relative_to(ROOT).as_posix() for path in files}
    return found | {f"toolkit_ext/evaluation/protocols/{path.name}" for path in protocols}


def test_the_wheel_has_the_package_and_nothing_else(built: dict[str, Path]) -> None:
    names = {name for name in zipfile.ZipFile(built[".whl"]).namelist() if ".dist-info/" not in name}
    assert names == _packaged()
    assert {"toolkit_ext/py.typed", "toolkit_ext/results/__init__.pyi", "toolkit_ext/experiments/costs.json"} <= names
    assert {"toolkit_ext/report/templates/report.html.j2", "toolkit_ext/backbones/timm_arguments.txt"} <= names


def test_the_sdist_has_what_builds_the_wheel(built: dict[str, Path]) -> None:
    with tarfile.open(built[".gz"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "PKG-INFO"} <= names
    assert {name.partition("/")[0] for name in names if "/" in name} == {"toolkit_ext", "eval"}


def _imports(tree: ast.AST) -> Iterator[str]:
    """The packages without which code cannot be imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
        elif not isinstance(node, _MAY_BE_MISSING) and "TYPE_CHECKING" not in ast.unparse(
            getattr(node, "test", ast.Pass())
        ):
            yield from _imports(node)


def test_the_dependencies_are_those_that_the_package_imports(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built[".whl"]) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    wanted = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    named = {canonicalize_name(requirement.name) for requirement in wanted if requirement.marker is None}
    modules = {
        name
        for file in PACKAGE.rglob("*.py")
        for name in _imports(ast.parse(file.read_text()))
        if name != _OF_EXTRAS.get(file.name)
    }
    sources = packages_distributions()
    needed = {
        module: {canonicalize_name(name) for name in sources[module]}
        for module in modules - set(sys.stdlib_module_names) - {"toolkit_ext"}
    }
    assert {module: names for module, names in needed.items() if not names & named} == {}


def test_the_command_trains_and_evaluates_in_another_folder(python: Path, tmp_path: Path) -> None:
    command = python.with_name("toolkit-ext")
    assert "torch" in _run(command, "--version", cwd=tmp_path)
    assert "Madry" in _run(command, "methods", "pgd", cwd=tmp_path)
    small = ("--backbone", "lenet", "--backbone-arg", "width=1", "--n-train", "64", "--n-test", "8", "--epochs", "1")
    options = (*small, "--eps", "0.1", "--steps", "1", "--seed", "0", "--attacks", "clean,fgsm")
    _run(command, "train", "pgd", "--data", "digits", *options, cwd=tmp_path)
    assert len(list((tmp_path / "results" / "runs").glob("*.json"))) == 1
    assert "pgd" in _run(command, "table", "--format", "csv", cwd=tmp_path)
    _run(command, "report", cwd=tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 1e6
    where = _run(python, "-c", "import toolkit_ext; print(toolkit_ext.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parents[1])
