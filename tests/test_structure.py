"""The shape of the house: what reads like an outline stays one, and recipes name only what differs."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "toolkit_ext"
BLOCK = 6
FRAME = ('if __name__ == "__main__":', "recipe(EXPERIMENT, __doc__)", "from ", "import ", ")")  # what every recipe has


def test_the_body_of_evaluate_is_an_outline() -> None:
    tree = ast.parse((PACKAGE / "evaluation" / "evaluate.py").read_text())
    (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "evaluate"]
    _, first, *_, last = found.body  # after the docstring
    assert last.end_lineno is not None
    assert last.end_lineno - first.lineno < 20


def test_the_loop_opens_one_context_for_speed_and_names_no_kernel() -> None:
    text = (PACKAGE / "trainers" / "loop.py").read_text()
    kernels = [file.stem for file in (PACKAGE / "fast" / "kernels").glob("*.py") if file.stem != "__init__"]
    assert len(kernels) > 1
    assert not [name for name in (*kernels, "layout", "folding", "kernels") if name in text]
    assert text.count("plan.applied(") == 1


def test_the_claims_engine_has_few_files() -> None:
    assert len(list((PACKAGE / "claims").rglob("*.py"))) <= 9


def test_no_block_stands_in_two_recipes() -> None:
    places: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for file in sorted((ROOT / "recipes").rglob("*.py")):
        stripped = [line.strip() for line in file.read_text().splitlines()]
        lines = [line for line in stripped if line and not line.startswith(FRAME)]
        for block in zip(*(lines[start:] for start in range(BLOCK)), strict=False):
            places[block].add(file.name)
    assert len(places) > 1000
    assert not {"\n".join(block): files for block, files in places.items() if len(files) > 1}
