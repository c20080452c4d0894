"""The page on security says what the code does, and every reader of pickles in the package is a safe one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolkit_ext.evaluation.loading import models

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
FILES = sorted(
    file for folder in ("toolkit_ext", "recipes", "eval", "benchmarks") for file in (ROOT / folder).rglob("*.py")
)
RUNS_CODE = {
    "torch.jit.load", "torch.export.load", "runpy.run_path", "importlib.import_module", "spec.loader.exec_module",
}  # fmt: skip
"""Calls that run what they read, each of which the page names."""
FORBIDDEN = {
    "pickle.load", "pickle.loads", "joblib.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "dill.load",
    "cloudpickle.load", "cloudpickle.loads", "pandas.read_pickle", "pd.read_pickle", "marshal.load", "marshal.loads",
    "shelve.open", "eval", "exec",
}  # fmt: skip


def calls(file: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """The dotted name of every call in a file, and its keywords that are constants."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            constants: dict[str, object] = {
                word.arg or "": word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)
            }
            yield ast.unparse(node.func), constants


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_reader_unpickles(file: Path) -> None:
    for name, words in calls(file):
        assert name not in FORBIDDEN
        if name in ("torch.load", "load_state_dict"):
            assert words.get("weights_only") is True
        if name in ("np.load", "numpy.load"):
            assert words.get("allow_pickle") is False


def test_what_runs_code_is_on_the_page() -> None:
    found = {name for file in (ROOT / "toolkit_ext").rglob("*.py") for name, _ in calls(file)} & RUNS_CODE
    assert found == RUNS_CODE
    for suffix in (*models._SCRIPT, models._EXPORT, "--recipes", "CIFAR", "FILE.py:FACTORY", "--import", "RobustBench"):
        assert suffix in PAGE


def test_the_page_is_linked() -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        assert "docs/security.md" in (ROOT / page).read_text()
