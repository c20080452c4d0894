"""Writes docs/methods.md from the methods' records, and the counted costs of a step (costs.json).

python docs/build_methods.py
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, astuple
from pathlib import Path
from typing import Any

from toolkit_ext.experiments import costs
from toolkit_ext.experiments.counting import count_passes
from toolkit_ext.io import atomic_write
from toolkit_ext.trainers import TRAINERS, MethodTrainer
from toolkit_ext.trainers.compose import AXES, options
from toolkit_ext.trainers.config import LoopConfig

FILE = Path(__file__).with_name("methods.md")
RECIPES = Path(__file__).parents[1] / "recipes"
HEAD = """# Methods

<!-- Made by docs/build_methods.py from the records in toolkit_ext/trainers/methods; do not edit. -->

Each method is a choice on four axes ([the method space](method_space.md)). The last columns are forward and backward
passes of the whole batch in one training step, counted while the method takes steps on a small network with its own
defaults (10 attack steps, say); those of a second network (`hat`, `lbgat`) come on top. Every method
takes every hyper-parameter of its axes and of the loop, as an argument of its trainer and as an option of
`toolkit-ext train`.
"""


def markdown(text: str) -> str:
    """A docstring as Markdown: its code spans, and no emphasis where a formula has underscores and stars."""
    parts = re.split(r"``(.+?)``", inspect.cleandoc(text))
    return "".join(f"`{p}`" if i % 2 else re.sub(r"([_*|<\\[\]])", r"\\\1", p) for i, p in enumerate(parts))


def shown(value: Any) -> str:
    """A default value in a table."""
    return ", ".join(map(shown, value)) or "none" if isinstance(value, tuple) else str(value)


def counted() -> dict[str, costs.Passes]:
    """The passes of a step of every method, counted now."""
    return {name: count_passes(name) for name in TRAINERS}


def as_json(passes: Mapping[str, costs.Passes]) -> str:
    """The text of ``costs.json``: the fields of ``Passes`` by method."""
    return json.dumps({name: astuple(cost) for name, cost in passes.items()}, indent=2) + "\n"


def overview() -> Iterator[str]:
    """The table of all methods."""
    yield "| method | attack | objective | update | schedule | forward | backward |"
    yield "| --- | --- | --- | --- | --- | ---: | ---: |"
    passes = costs.recorded_passes()
    for name, kind in TRAINERS.items():
        method, cost = kind.method, passes[name]
        axes = " | ".join((method.attack, method.objective, method.update, method.schedule))
        yield f"| [`{name}`](#{name}) | {axes} | {math.ceil(cost.forward)} | {math.ceil(cost.backward)} |"


def section(name: str, kind: type[MethodTrainer]) -> Iterator[str]:
    """One method: what it does, where it is from, its formula, its own defaults."""
    method = kind.method
    paper = f"[{method.paper}]({method.paper.url})" if method.paper.url else str(method.paper)
    yield f"## {name}\n"
    script = f" [Recipe](../recipes/{name}.py)." if (RECIPES / f"{name}.py").exists() else ""
    yield f"`toolkit_ext.trainers.{kind.__name__}`: {method.summary}. {paper}.{script}\n"
    equation, _, words = inspect.cleandoc(method.formula).partition("\n\n")
    yield f"$$\n{method.latex}\n$$\n" if method.latex else f"{markdown(equation)}\n"
    if words:
        yield f"{markdown(words)}\n"
    if method.use:
        yield f"{method.use}\n"
    if method.defaults:
        own = ", ".join(f"`{key} = {shown(value)}`" for key, value in method.defaults.items())
        yield f"Defaults of its own: {own}.\n"


def parameters(title: str, fields: dict[str, Field[Any]]) -> Iterator[str]:
    """The table of hyper-parameters of one choice."""
    yield f"### {title}\n"
    if not fields:
        yield "No hyper-parameters.\n"
        return
    yield "| name | default | |\n| --- | --- | --- |"
    for name, entry in fields.items():
        yield f"| `{name}` | {markdown(shown(entry.default))} | {markdown(entry.metadata['help'])} |"
    yield ""


def text() -> str:
    """The whole page."""
    lines = [HEAD, *overview(), ""]
    for name, kind in TRAINERS.items():
        lines += section(name, kind)
    lines += ["# Hyper-parameters\n", *parameters("The training loop", options(LoopConfig))]
    for axis, kinds in AXES.items():
        for name, part in kinds.items():
            lines += parameters(f"{axis} {name}", options(part))
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    atomic_write(costs.FILE, as_json(counted()))
    atomic_write(FILE, text())
    print(costs.FILE, FILE, sep="\n")
