"""Which attack broke which test image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from toolkit_ext.errors import UserError
from toolkit_ext.results.figures.plots import look, save
from toolkit_ext.results.records.schema import Record
from toolkit_ext.results.tables.concise import label
from toolkit_ext.results.tables.significance import per_example

Ints = np.ndarray[Any, np.dtype[np.int8]]
# Dark where the attack won, so that the figure reads the same in grey.
_SURVIVED, _BROKEN, _MISCLASSIFIED = 0, 1, 2
_STATES = ("#FFFFFF", "#0072B2", "#D9D9D9")


def attack_label(name: str) -> str:
    """``AutoAttack: apgd-ce`` for ``aa/apgd-ce``; the column's heading for a column."""
    whole, _, part = name.partition("/")
    return f"{label(f'{whole}_acc')}: {part}" if part else label(f"{name}_acc")


def first_broken(record: Record) -> dict[str, int]:
    """How many images fell where: ``misclassified``, to each of AutoAttack's parts in turn, to the other columns alone
    (``other attacks``), and ``robust``: the numbers add up to the examples. Empty without results for each image."""
    names = list(record["details"].get("robust", {}))
    steps = [("misclassified", "clean"), *((attack_label(n), n) for n in names if n.startswith("aa/"))]
    steps += [("other attacks" if len(steps) > 1 else "any attack", "union")] if "union" in names else []
    alive, counts = np.ones(record["n_examples"], dtype=bool), {}
    for name, attack in steps:
        bits = per_example(record, attack)
        if bits is None:
            return {}
        counts[name] = int((alive & (bits == 0)).sum())
        alive &= bits != 0
    return counts | {"robust": int(alive.sum())}


def plot_breakdown(records: Sequence[Record], path: Path | str) -> Path:
    """A stacked bar for each run: what share of the images was misclassified, fell to which attack, or held.

    AutoAttack's parts run one after the other, so each part's share is of what the earlier ones left.
    Raises :class:`UserError` where no run has results for each image.
    """
    found = [(record, first_broken(record)) for record in records]
    found = [(record, counts) for record, counts in found if counts]
    if not found:
        raise UserError("results: no run has results for each image (details.robust), which this figure shows")
    parts = [*dict.fromkeys(name for _, counts in found for name in counts if name != "robust"), "robust"]
    figure = Figure(figsize=(8, 1.4 + 0.4 * len(found)), layout="constrained")
    axes = figure.subplots()
    ends = np.zeros(len(found))
    for index, part in enumerate(parts):
        shares = np.array([100 * counts.get(part, 0) / record["n_examples"] for record, counts in found])
        style = {"color": "#FFFFFF", "hatch": ""} if part == "robust" else look(index, "hatch")
        axes.barh(range(len(found)), shares, left=ends, label=part, edgecolor="black", **style)
        ends += shares
    names = [f"{record['method']}, seed {record['seed']}" for record, _ in found]
    unique = len(set(names)) == len(names)
    axes.set_yticks(range(len(found)), names if unique else [record["run_id"] for record, _ in found])
    axes.invert_yaxis()
    axes.set(xlabel="share of the test images [%]", xlim=(0, 100))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return save(figure, path)


def matrix(record: Record) -> tuple[list[str], Ints]:
    """Names of the attacks, and ``[attacks, examples]``: 0 survived, 1 broken, 2 misclassified as it is.

    The images are ordered by how many attacks break them, those that all break first.
    """
    clean = per_example(record, "clean")
    names = [name for name in record["details"].get("robust", {}) if name not in ("clean", "union")]
    rows = {name: bits for name in names if (bits := per_example(record, name)) is not None}
    if clean is None or not rows:
        raise UserError(f"run {record['run_id']}: has no results for each image (details.robust) to show")
    states = np.stack([np.where(bits == 1, _SURVIVED, _BROKEN) for bits in rows.values()]).astype(np.int8)
    states[:, clean == 0] = _MISCLASSIFIED
    keys = [*states[::-1], -states.sum(axis=0)]
    return list(rows), states[:, np.lexsort(keys)]


def plot_matrix(record: Record, path: Path | str) -> Path:
    """A row for each attack, a column for each test image: dark where the attack broke it.

    AutoAttack's parts run one after the other: the row of a part shows what it and those before it broke.

    Raises :class:`UserError` where the run has no results for each image.
    """
    names, states = matrix(record)
    figure = Figure(figsize=(8, 1.6 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots()
    colours = ListedColormap(list(_STATES))
    scale = BoundaryNorm([-0.5, 0.5, 1.5, 2.5], colours.N)
    axes.pcolormesh(states, cmap=colours, norm=scale, rasterized=True)
    axes.set_yticks(np.arange(len(names)) + 0.5, [attack_label(name) for name in names])
    axes.set_yticks(range(len(names) + 1), minor=True)
    axes.grid(axis="y", which="minor", color="black", linewidth=0.5)
    axes.invert_yaxis()
    axes.set(xlabel="test images, ordered by how many attacks break them")
    axes.set_title(f"{record['method']} on {record['data']['name']}, seed {record['seed']}", fontsize=10)
    kinds = {"survived": _SURVIVED, "broken": _BROKEN, "misclassified as it is": _MISCLASSIFIED}
    patches = [Patch(facecolor=_STATES[state], edgecolor="black", label=name) for name, state in kinds.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return save(figure, path)
