"""Probes: what is measured on a trained model besides its evaluation, each with a record of its own."""

from toolkit_ext.claims.probes.evaluations import ensemble, other_budget
from toolkit_ext.claims.probes.landscapes import hessian, similarity
from toolkit_ext.claims.probes.layerwise import layerwise

__all__ = ["ensemble", "hessian", "layerwise", "other_budget", "similarity"]
