"""Forward passes in training mode that leave running batch-norm statistics as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook


@contextmanager
def hold_running_statistics(model: nn.Module | None = None) -> Iterator[None]:
    """In the context, forward passes in training mode do not update running batch-norm statistics.

    This covers the layers of ``model``, or, without it, every layer called in the process, through a global hook of
    torch. Models compiled with ``torch.compile`` ignore that hook, so give ``model`` for them.
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
