"""Images beside their adversarial examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toolkit_ext.errors import UserError
from toolkit_ext.results.figures.plots import save

Images = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, eq=False)
class Pair:
    """An image and what an attack made of it.

    ``clean`` and ``adversarial`` are ``[C, H, W]`` in [0, 1] with 1 or 3 channels; ``label`` is the true class,
    ``prediction`` the class that the model sees in the adversarial image, ``attack`` what made it.
    """

    clean: Images
    adversarial: Images
    label: str
    prediction: str
    attack: str


def pairs(
    clean: Images, inputs: Images, facts: Sequence[tuple[int, int, str]], classes: Sequence[str], limit: int = 8
) -> list[Pair]:
    """The first ``limit`` pairs that an attack made (images misclassified as they are have none).

    Args:
        clean: ``[M, C, H, W]`` in [0, 1].
        inputs: ``[M, C, H, W]``, the adversarial examples of the same images.
        facts: For each, the true label, the prediction on the adversarial image, and the attack.
        classes: Names of the classes; a class without one is told by its number.
        limit: Pairs at most.
    """
    names = dict(enumerate(classes))
    made = zip(clean, inputs, facts, strict=True)
    return [
        Pair(image, adversarial, names.get(true, str(true)), names.get(seen, str(seen)), attack)
        for image, adversarial, (true, seen, attack) in made
        if attack != "clean"
    ][:limit]


def plot_pairs(found: Sequence[Pair], path: Path | str) -> Path:
    """Write :func:`draw_pairs` to ``path``."""
    return save(draw_pairs(found), path)


def draw_pairs(found: Sequence[Pair]) -> Figure:
    """A column for each pair: the image, the adversarial example, and their difference amplified around mid-grey.

    The factor of the amplification, the same for all of the figure, fills half of the range from black to white at
    the largest difference; it is written beside the row. Raises :class:`UserError` if there is no pair.
    """
    if not found:
        raise UserError("examples: there is no adversarial example to show; all images were robust or misclassified")
    largest = max(float(np.abs(pair.adversarial - pair.clean).max()) for pair in found)
    factor = 0.5 / largest if largest else 1.0
    figure = Figure(figsize=(1.0 + 1.1 * len(found), 4.4), layout="constrained")
    grid = figure.subplots(3, len(found), squeeze=False)
    for column, pair in enumerate(found):
        difference = 0.5 + factor * (pair.adversarial - pair.clean)
        for axes, image in zip(grid[:, column], (pair.clean, pair.adversarial, difference), strict=True):
            _show(axes, image)
        grid[0, column].set_title(pair.label, fontsize=8)
        grid[1, column].set_title(f"seen as {pair.prediction}", fontsize=8)
        grid[2, column].set_xlabel(pair.attack, fontsize=7)
    for axes, text in zip(grid[:, 0], ("clean", "adversarial", f"difference × {factor:.3g}"), strict=True):
        axes.set_ylabel(text, fontsize=8)
    return figure


def _show(axes: Axes, image: Images) -> None:
    shown = np.clip(image, 0, 1)
    axes.imshow(shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
