"""The adversarial loss landscape, measured: curvature, surfaces, dead layers, connectivity, and the linear model."""

from toolkit_ext.backbones.dead_layers import DeadLayers, dead_layers
from toolkit_ext.landscape.adversarial_loss import adversarial_examples, loss_and_error
from toolkit_ext.landscape.connectivity import Curve, line, scan, train_curve
from toolkit_ext.landscape.diagnostics import batch_gradients, training_diagnostics
from toolkit_ext.landscape.directions import Plane, filter_normalised, random_direction, through
from toolkit_ext.landscape.hessian import Hessian, Ritz, lanczos
from toolkit_ext.landscape.similarity import mean_cosine, perturbation_similarity
from toolkit_ext.landscape.spectrum import (
    Density,
    Eigenpairs,
    NotConvergedWarning,
    Trace,
    density,
    top_eigenpairs,
    trace,
)
from toolkit_ext.landscape.surface import loss_surface

__all__ = [
    "Curve",
    "DeadLayers",
    "Density",
    "Eigenpairs",
    "Hessian",
    "NotConvergedWarning",
    "Plane",
    "Ritz",
    "Trace",
    "adversarial_examples",
    "batch_gradients",
    "dead_layers",
    "density",
    "filter_normalised",
    "lanczos",
    "line",
    "loss_and_error",
    "loss_surface",
    "mean_cosine",
    "perturbation_similarity",
    "random_direction",
    "scan",
    "through",
    "top_eigenpairs",
    "trace",
    "train_curve",
    "training_diagnostics",
]
