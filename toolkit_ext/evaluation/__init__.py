"""Standardised evaluation: AutoAttack and further attacks, with re-checked successes and resumable batches."""

from toolkit_ext.evaluation.audit import Audit, Check, audit
from toolkit_ext.evaluation.certificates import Certificates, Smoothing
from toolkit_ext.evaluation.corruptions import CorruptionAccuracy, evaluate_corruptions
from toolkit_ext.evaluation.evaluate import evaluate, evaluate_budgets
from toolkit_ext.evaluation.loading.adapters import Ensemble
from toolkit_ext.evaluation.loading.models import Loaded, Shape, load
from toolkit_ext.evaluation.protocol import (
    COLUMNS,
    VERSIONS,
    Budget,
    Protocol,
    load_protocol,
    protocol_for,
    protocol_names,
)
from toolkit_ext.evaluation.result import Evaluation, Examples, Flag, load_examples, unpack_flags, wilson
from toolkit_ext.evaluation.smoothing import certify
from toolkit_ext.evaluation.threats import Threats, evaluate_threats

__all__ = [
    "COLUMNS",
    "VERSIONS",
    "Audit",
    "Budget",
    "Certificates",
    "Check",
    "CorruptionAccuracy",
    "Ensemble",
    "Evaluation",
    "Examples",
    "Flag",
    "Loaded",
    "Protocol",
    "Shape",
    "Smoothing",
    "Threats",
    "audit",
    "certify",
    "evaluate",
    "evaluate_budgets",
    "evaluate_corruptions",
    "evaluate_threats",
    "load",
    "load_examples",
    "load_protocol",
    "protocol_for",
    "protocol_names",
    "unpack_flags",
    "wilson",
]
