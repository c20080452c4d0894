"""Several threat models together: robust accuracy in each, on average, and against all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from toolkit_ext.data import ImageSet, as_tensors
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.evaluate import evaluate
from toolkit_ext.evaluation.loading.adapters import Classifier
from toolkit_ext.evaluation.protocol import Protocol, load_protocol
from toolkit_ext.evaluation.result import Evaluation, fraction, wilson
from toolkit_ext.evaluation.running.clock import start_clock


@dataclass(frozen=True, eq=False)
class Threats:
    """The union of threat models: an image is robust if no attack in any of the balls breaks it.

    Tramèr and Boneh: Adversarial training and robustness for multiple perturbations. NeurIPS 2019, section 2: the
    average and the worst case ("max") over the perturbations.

    Args:
        evaluations: Of the same model and images, by the name of the protocol.

    Raises:
        UserError: fewer than two, or evaluations of other models or images.
    """

    evaluations: Mapping[str, Evaluation]

    def __post_init__(self) -> None:
        if len(self.evaluations) < 2:
            raise UserError("protocol: threat models are joined; give at least two, such as linf_8_255,l2_0.5")
        for fact in ("model_sha256", "data_sha256"):
            if len({one.settings[fact] for one in self.evaluations.values()}) > 1:
                raise UserError(f"threats: the evaluations differ in {fact}; give those of one model and its images")

    @property
    def column(self) -> str:
        """``aa`` if all have it, else ``union``, whose attacks may differ from threat to threat."""
        return "aa" if all("aa" in one.robust for one in self.evaluations.values()) else "union"

    @property
    def robust(self) -> Tensor:
        """``[N]`` bool: which images survive all threats."""
        return torch.stack([one.robust[self.column] for one in self.evaluations.values()]).all(dim=0)

    def to_dict(self) -> dict[str, Any]:
        """Robust accuracy in ``each`` threat, its ``average``, and ``all`` at once with its 95% interval; for JSON."""
        each = {name: fraction(one.robust[self.column]) for name, one in self.evaluations.items()}
        robust = self.robust
        return {
            "column": self.column,
            "each": each,
            "average": sum(each.values()) / len(each),
            "all": fraction(robust),
            "interval": list(wilson(int(robust.sum()), len(robust))),
        }


def evaluate_threats(
    model: Classifier,
    x: Tensor | ImageSet | Dataset[Any] | DataLoader[Any],
    y: Tensor | None,
    protocols: Sequence[Protocol | str],
    *,
    state_dir: str | Path | None = None,
    save_examples: str | Path | None = None,
    **options: Any,
) -> Threats:
    """:func:`evaluate` by each of ``protocols``, such as one for each norm, and their union.

    Args:
        model: As for :func:`evaluate`, as are ``x``, ``y`` and ``options``.
        x: Images.
        y: Labels.
        protocols: At least two, with different names.
        state_dir: Folder with a subfolder per protocol.
        save_examples: Path of a safetensors file; ``@<protocol>`` is added to its stem.

    Raises:
        UserError: protocols that are not allowed, a limit of time, and whatever :func:`evaluate` refuses.
    """
    x, y = as_tensors(x, y)
    start_clock(options.get("max_time"), stores=state_dir is not None, carries=True)
    loaded = {one.name: one for one in map(load_protocol, protocols)}
    if len(loaded) < max(len(protocols), 2):
        raise UserError(f"protocol: {', '.join(loaded)} is not allowed; give two or more, each once")
    found = {}
    for name, protocol in loaded.items():
        folder = None if state_dir is None else Path(state_dir) / name
        path = None if save_examples is None else Path(save_examples)
        path = path and path.with_stem(f"{path.stem}@{name}")
        found[name] = evaluate(model, x, y, protocol, state_dir=folder, save_examples=path, **options)
    return Threats(found)
