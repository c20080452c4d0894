"""The model behind an ART classifier as a torch module on [0, 1] inputs; shared with the evaluation."""

from toolkit_ext.estimators import ClassifierView, as_classifier, clip_range, inner, view

__all__ = ["ClassifierView", "as_classifier", "clip_range", "inner", "view"]
