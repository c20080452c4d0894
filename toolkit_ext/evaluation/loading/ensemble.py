"""Several models as one, whose logits are the logarithms of the mean probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.errors import UserError


def _log_probabilities(logits: Tensor) -> Tensor:
    half = logits.dtype in (torch.float16, torch.bfloat16)
    return F.log_softmax(logits, dim=1, dtype=torch.float32 if half else None)


class Ensemble(nn.Module):
    """``z_k(x) = log (1/M) Σ_m softmax_k(f_m(x))`` for members ``f_1 ... f_M``: ``[N, C, H, W]`` to ``[N, K]``.

    The logarithms of the mean probabilities are logits of the ensemble: their softmax is the mean probability, their
    cross-entropy the ensemble's, and they are not confined to [0, 1] as probabilities would be. So an attack on this
    module is an attack on the ensemble, through all members at once. Computed as a log-sum-exp of log-probabilities,
    it neither underflows nor loses the gradient where members are certain.

    Args:
        models: the members, which must agree on the number of classes.

    Raises:
        UserError: no members, or different numbers of classes (here where the members tell theirs as
            ``num_classes``, else at the first forward pass).
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if not models:
            raise UserError("ensemble: it has no members; give at least one model")
        self.members = nn.ModuleList(models)
        _check_classes([getattr(model, "num_classes", None) for model in models])

    def __len__(self) -> int:
        """Number of members."""
        return len(self.members)

    def forward(self, x: Tensor) -> Tensor:
        """Log-mean-probabilities ``[N, K]``."""
        logits = [member(x) for member in self.members]
        _check_classes([member.shape[1] for member in logits])
        log_probabilities = torch.stack([_log_probabilities(member) for member in logits])
        return torch.logsumexp(log_probabilities, dim=0) - math.log(len(logits))


def _check_classes(counts: Sequence[int | None]) -> None:
    known = sorted({count for count in counts if count is not None})
    if len(known) > 1:
        raise UserError(f"ensemble: its members have {' and '.join(map(str, known))} classes; all must have the same")
