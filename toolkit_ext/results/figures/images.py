"""Figures of test images: which attack broke which image, and images beside their adversarial examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit_ext.errors import UserError
from toolkit_ext.results.figures.plots import despine, look, panels, save
from toolkit_ext.results.records.schema import Record
from toolkit_ext.results.tables.formatting import label
from toolkit_ext.results.tables.significance import per_example

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Images = np.ndarray[Any, np.dtype[np.float32]]
Ints = np.ndarray[Any, np.dtype[np.int8]]
# Dark where the attack succeeded, also in greyscale.
_SURVIVED, _BROKEN, _MISCLASSIFIED = 0, 1, 2
_STATES = ("#FFFFFF", "#0072B2", "#D9D9D9")


def attack_label(name: str) -> str:
    """``AutoAttack: apgd-ce`` for ``aa/apgd-ce``; for others the heading of the column."""
    whole, _, part = name.partition("/")
    return f"{label(f'{whole}_acc')}: {part}" if part else label(f"{name}_acc")


def first_broken(record: Record) -> dict[str, int]:
    """The number of images by what broke them first; empty without per-image results.

    The keys, in order: ``misclassified``, AutoAttack's parts, ``other attacks``, ``robust``.
    """
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
    """Plot a stacked bar per run: the share of images that are misclassified, broken by each attack, or robust.

    AutoAttack's parts run in sequence: each part's share is of the images that earlier parts left.
    Raises :class:`UserError` if no run has per-image results.
    """
    found = [(record, counts) for record in records if (counts := first_broken(record))]
    if not found:
        raise UserError("results: no run has results for each image (details.robust), which this figure shows")
    parts = [*dict.fromkeys(name for _, counts in found for name in counts if name != "robust"), "robust"]
    figure, (axes,) = panels(8, 1.4 + 0.4 * len(found))
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
    despine(axes)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return save(figure, path)


def matrix(record: Record) -> tuple[list[str], Ints]:
    """Names of the attacks, and ``[attacks, examples]``: 0 survived, 1 broken, 2 misclassified as it is.

    Images that most attacks break come first.
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
    """Plot a row per attack and a column per test image, dark where the attack broke it.

    AutoAttack's parts run in sequence: the row of a part shows what it and the earlier parts broke.
    Raises :class:`UserError` if the run has no per-image results.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    names, states = matrix(record)
    figure, (axes,) = panels(8, 1.6 + 0.3 * len(names))
    axes.pcolormesh(states, cmap=ListedColormap(list(_STATES)), vmin=0, vmax=2, rasterized=True)
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


@dataclass(frozen=True, eq=False)
class Pair:
    """An image and its adversarial example, ``[C, H, W]`` in [0, 1] with 1 or 3 channels.

    ``label`` is the true class, ``prediction`` that of the adversarial image.
    """

    clean: Images
    adversarial: Images
    label: str
    prediction: str
    attack: str


def pairs(
    clean: Images, inputs: Images, facts: Sequence[tuple[int, int, str]], classes: Sequence[str], limit: int = 8
) -> list[Pair]:
    """The first ``limit`` pairs, without images that are misclassified unperturbed.

    Args:
        clean: Images, ``[M, C, H, W]`` in [0, 1].
        inputs: Their adversarial examples, ``[M, C, H, W]``.
        facts: For each the true label, the prediction on the adversarial image, and the attack.
        classes: Names of the classes; a class without a name is shown by its number.
        limit: Maximum number of pairs.
    """
    names = dict(enumerate(classes))
    return [
        Pair(image, adversarial, names.get(true, str(true)), names.get(seen, str(seen)), attack)
        for image, adversarial, (true, seen, attack) in zip(clean, inputs, facts, strict=True)
        if attack != "clean"
    ][:limit]


def plot_pairs(found: Sequence[Pair], path: Path | str) -> Path:
    """Write :func:`draw_pairs` to ``path``."""
    return save(draw_pairs(found), path)


def draw_pairs(found: Sequence[Pair]) -> Figure:
    """A column per pair: the image, its adversarial example, and their amplified difference around mid-grey.

    One factor, printed beside the row, scales the largest difference to 0.5. Raises :class:`UserError` without pairs.
    """
    if not found:
        raise UserError("examples: there is no adversarial example to show; all images were robust or misclassified")
    largest = max(float(np.abs(pair.adversarial - pair.clean).max()) for pair in found)
    factor = 0.5 / largest if largest else 1.0
    number = len(found)
    figure, places = panels(1.0 + 1.1 * number, 4.4, 3, number)
    rows = [places[start : start + number] for start in range(0, 3 * number, number)]
    for column, pair in enumerate(found):
        difference = 0.5 + factor * (pair.adversarial - pair.clean)
        for row, image in zip(rows, (pair.clean, pair.adversarial, difference), strict=True):
            _show(row[column], image)
        rows[0][column].set_title(pair.label, fontsize=8)
        rows[1][column].set_title(f"seen as {pair.prediction}", fontsize=8)
        rows[2][column].set_xlabel(pair.attack, fontsize=7)
    for row, text in zip(rows, ("clean", "adversarial", f"difference × {factor:.3g}"), strict=True):
        row[0].set_ylabel(text, fontsize=8)
    return figure


def _show(axes: Axes, image: Images) -> None:
    shown = np.clip(image, 0, 1)
    axes.imshow(shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
