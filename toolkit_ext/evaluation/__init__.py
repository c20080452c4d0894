"""Standardised evaluation: AutoAttack and further attacks, with re-checked successes and resumable batches."""

from toolkit_ext.evaluation.audit import Audit, Check, audit
from toolkit_ext.evaluation.evaluate import evaluate
from toolkit_ext.evaluation.loading.ensemble import Ensemble
from toolkit_ext.evaluation.loading.models import Loaded, Shape, load
from toolkit_ext.evaluation.protocol import COLUMNS, VERSIONS, Budget, Protocol, load_protocol, protocol_names
from toolkit_ext.evaluation.result import Evaluation, unpack_flags, wilson
from toolkit_ext.evaluation.running.examples import Examples, load_examples
from toolkit_ext.evaluation.suite.budgets import evaluate_budgets
from toolkit_ext.evaluation.suite.flags import Flag

__all__ = [
    "COLUMNS",
    "VERSIONS",
    "Audit",
    "Budget",
    "Check",
    "Ensemble",
    "Evaluation",
    "Examples",
    "Flag",
    "Loaded",
    "Protocol",
    "Shape",
    "audit",
    "evaluate",
    "evaluate_budgets",
    "load",
    "load_examples",
    "load_protocol",
    "protocol_names",
    "unpack_flags",
    "wilson",
]
