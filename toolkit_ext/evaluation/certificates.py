"""What randomised smoothing is asked for, and what it certifies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from toolkit_ext.bounds import COUNT, POSITIVE, Bounds, CheckedOptions
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.result import fraction, pack_flags, wilson
from toolkit_ext.types import option
from toolkit_ext.units import parse_eps

ABSTAINED = -1


@dataclass(frozen=True)
class Smoothing(CheckedOptions):
    """Randomised smoothing: the classifier g(x) = argmax_c P(f(x + δ) = c) with δ ~ N(0, σ² I).

    Args:
        sigma: Standard deviation σ of the noise, in units of [0, 1] inputs. The noisy images are not clipped.
        samples: Noisy copies of an image whose classes bound the probability of the predicted one (n of the paper).
        selection_samples: Noisy copies that choose the predicted class (n_0 of the paper).
        failure_probability: Probability, at most, that a certificate is wrong (α of the paper), in (0, 0.5).

    Raises:
        UserError: a number outside its range.
    """

    sigma: float = option(0.25, "standard deviation of the noise", POSITIVE)
    samples: int = option(1000, "noisy copies that bound the probability of the class", COUNT)
    selection_samples: int = option(100, "noisy copies that choose the class", COUNT)
    failure_probability: float = option(0.001, "chance of a wrong certificate, at most", Bounds(above=0, below=0.5))


@dataclass(frozen=True, eq=False)
class Certificates:
    """The result of :func:`toolkit_ext.evaluation.certify`.

    Attributes:
        prediction: ``[N]`` int64, the class of the smoothed classifier; -1 where it abstains.
        radius: ``[N]`` float64, the L2 radius, in units of [0, 1] inputs, within which no perturbation changes the
            prediction; 0 where it abstains.
        labels: ``[N]`` int64, the true classes.
        seconds: Wall time.
        settings: The fields of :class:`Smoothing`, seed, batch size, device, arithmetic, versions, and the SHA-256 of
            the model and of the images with their labels.
    """

    prediction: Tensor
    radius: Tensor
    labels: Tensor
    seconds: float
    settings: dict[str, Any]

    def robust(self, eps: float) -> Tensor:
        """``[N]`` bool: predicted right, with a certified radius of at least ``eps``; 0 asks for the prediction."""
        return (self.prediction == self.labels) & (self.radius >= eps)

    def certified_accuracy(self, eps: float) -> float:
        """The share of images that :meth:`robust` counts."""
        return fraction(self.robust(eps))

    def metrics(self, eps: float) -> dict[str, float]:
        """Accuracy of the smoothed classifier, certified accuracy at ``eps``, share of abstentions, average radius.

        The average certified radius counts 0 for wrong predictions (Zhai et al.: MACER. ICLR 2020).
        """
        return {
            "smoothed_acc": self.certified_accuracy(0),
            "certified_acc": self.certified_accuracy(eps),
            "abstained": fraction(self.prediction == ABSTAINED),
            "certified_radius": float((self.radius * self.robust(0)).mean()),
        }

    def to_record(self, eps: float) -> dict[str, Any]:
        """The fields of the run record for the radius ``eps``, ready for JSON."""
        robust = {"smoothed": self.robust(0), "certified": self.robust(eps)}
        name = f"smoothing_{self.settings['sigma']:g}@{eps:g}"
        return {
            "protocol": {"name": name, "norm": "L2", "eps": eps, "version": "standard"},
            "n_examples": len(self.labels),
            "metrics": self.metrics(eps),
            "intervals": {f"{key}_acc": list(wilson(int(flags.sum()), len(flags))) for key, flags in robust.items()},
            "details": {
                "settings": self.settings,
                "robust": {key: pack_flags(flags) for key, flags in robust.items()},
                "smoothing": {"prediction": self.prediction.tolist(), "radius": self.radius.tolist()},
            },
        }


def parse_radii(values: Sequence[str | float]) -> list[float]:
    """Radii in L2 in growing order, from numbers or text such as ``0.5``.

    Raises:
        UserError: none, a value that is no radius, or one given twice.
    """
    radii = sorted(parse_eps(value, "L2") for value in values)
    if not radii or len(set(radii)) < len(radii):
        raise UserError(f"eps: {','.join(map(str, values)) or 'none'} is not allowed; give radii, each once")
    return radii
