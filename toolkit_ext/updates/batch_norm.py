"""Running batch-norm statistics when one batch is passed through the model several times.

AMP and AWP compute the loss of a batch at θ and again at θ + Δ. Updating the running averages in every pass would
count each batch several times, at weights the model never keeps. Which pass updates them is an option:

- ``once`` (default): the first, at θ, which is what evaluation uses the averages for;
- ``last``: the last, at θ + Δ (what the code of AWP's authors does);
- ``every``: all of them (what the code of AMP's authors does).

The normalisation of a training pass itself uses the statistics of the batch in all three cases. Only batch norm is
held still: other state that a forward pass moves (a random generator's, the power iteration of spectral norm) goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook

from toolkit_ext.errors import check_choice

BatchNormPasses = Literal["once", "last", "every"]


def check_batch_norm(option: str, value: str) -> None:
    """Raise :class:`~toolkit_ext.errors.UserError` if ``value`` is none of ``once``, ``last``, ``every``."""
    check_choice(option, value, get_args(BatchNormPasses))


def updates_statistics(batch_norm: BatchNormPasses, index: int, last: int) -> bool:
    """Whether pass ``index`` of 0 ... ``last`` over one batch updates the running statistics."""
    return {"once": index == 0, "last": index == last, "every": True}[batch_norm]


@contextmanager
def hold_running_statistics(model: nn.Module | None = None) -> Iterator[None]:
    """While open, forward passes leave the running statistics of batch-norm layers as they are.

    ``model`` names the layers to hold. Without it, every batch-norm layer of the process that is called meanwhile is
    held, through a global hook of torch; a graph that ``torch.compile`` has already made ignores that hook: name it.
    Layers in evaluation mode behave as always. What was changed is put back on leaving, also after an exception.
    """
    held: dict[nn.Module, bool] = {}

    def hold(module: nn.Module, _inputs: object = None) -> None:
        if isinstance(module, _BatchNorm) and module not in held:
            held[module] = module.track_running_stats
            module.track_running_stats = False

    hook = register_module_forward_pre_hook(hold) if model is None else None
    try:
        for module in model.modules() if model is not None else ():
            hold(module)
        yield
    finally:
        if hook is not None:
            hook.remove()
        for module, tracked in held.items():
            module.track_running_stats = tracked  # type: ignore[assignment]
