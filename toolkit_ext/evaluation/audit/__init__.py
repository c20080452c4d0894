"""Checks whether an evaluation measures robustness or an attack that fails.

Carlini et al.: On evaluating adversarial robustness. arXiv:1902.06705, 2019. Athalye, Carlini, Wagner: Obfuscated
gradients give a false sense of security. ICML 2018, section 3.1.
"""

from toolkit_ext.evaluation.audit.judge import STATUSES, Audit, Check
from toolkit_ext.evaluation.audit.run import audit

__all__ = ["STATUSES", "Audit", "Check", "audit"]
