"""Dead layers: ReLU units that are off on every input, and the constant classifier they lead to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from toolkit_ext.backbones.outputs import same_modes
from toolkit_ext.data import check_images, to_unit
from toolkit_ext.errors import UserError, check_positive

_RELUS = {"relu", "relu_", "relu6", "hardtanh", "threshold"}


@dataclass(frozen=True)
class DeadLayers:
    """The result of :func:`dead_layers`.

    ``layers`` has one row per ReLU: ``layer`` (the module that calls it), ``units``, ``dead`` (their number) and
    ``share``. ``constant_class`` is the class predicted if the logits are the same for all inputs.
    """

    layers: pd.DataFrame
    n_examples: int
    constant_class: int | None

    @property
    def wholly_dead(self) -> list[str]:
        """Names of the layers whose units are all dead, in the order of the forward pass."""
        return list(self.layers.loc[self.layers["dead"] == self.layers["units"], "layer"])

    @property
    def alarm(self) -> str | None:
        """One line for a log on dead layers and a constant classifier, if there are any."""
        parts = []
        if self.wholly_dead:
            parts.append(f"every unit of {', '.join(self.wholly_dead)} is off on all {self.n_examples} inputs")
        if self.constant_class is not None:
            parts.append(f"the model is the constant classifier of class {self.constant_class}")
        return "; ".join(parts) or None


@dataclass
class _Recorder(TorchFunctionMode):
    """Records the input of every ReLU call, as a module or as a function, and the calling module."""

    path: list[str] = field(default_factory=list)
    highest: dict[str, Tensor] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _RELUS and args and isinstance(args[0], Tensor):
            self._see(args[0].detach().amax(dim=0))
            with torch._C.DisableTorchFunction():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _see(self, highest: Tensor) -> None:
        module = self.path[-1] if self.path else ""
        call = self.calls[module] = self.calls.get(module, 0) + 1
        name = f"{module or 'model'}#{call}" if call > 1 else module or "model"
        known = self.highest.get(name)
        self.highest[name] = highest if known is None else torch.maximum(known, highest)


@contextmanager
def _watched(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Hold ``model`` in evaluation mode and tell the recorder which submodule is called; restore ``model`` after."""

    def leave(*_: Any) -> None:
        recorder.path.pop()

    with same_modes(model), ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(lambda *_, name=name: recorder.path.append(name)))
            hooks.enter_context(module.register_forward_hook(leave, always_call=True))
        model.eval()
        yield


@torch.no_grad()
def dead_layers(model: nn.Module, x: Any, *, batch_size: int = 250) -> DeadLayers:
    """Find ReLU units that are off on all of ``x`` ``[N, C, H, W]`` (clean or adversarial), in evaluation mode.

    A unit is one entry of a layer's output for one example. It is dead if its pre-activation is at most 0 on every
    input, so it gets no gradient. A layer of dead units without a residual connection makes the model a constant
    classifier, which is detected from the logits.
    ReLU and ReLU6 count as modules and as functions; a second call in one module is named ``module#2``.

    Args:
        model: ``[N, C, H, W]`` in [0, 1] to logits ``[N, K]``.
        x: Images in [0, 1] or uint8.
        batch_size: Images in memory at once.

    Raises:
        UserError: images that do not fit, or a model without weights or without ReLU (GELU is never wholly off).
    """
    x = check_images(x)
    check_positive("batch_size", batch_size)
    weight = next(model.parameters(), None)
    if weight is None:
        raise UserError("model: it has no parameters; layers die when their weights are trained")
    recorder = _Recorder()
    logits = []
    with _watched(model, recorder):
        for part in x.split(batch_size):
            recorder.calls.clear()
            images = to_unit(part).to(weight.device, weight.dtype)
            with recorder:
                logits.append(model(images).double().cpu())
    if not recorder.highest:
        raise UserError("model: it calls no ReLU; other activations have no units that are off on every input")
    counts = [(name, highest.numel(), int((highest <= 0).sum())) for name, highest in recorder.highest.items()]
    layers = pd.DataFrame(counts, columns=["layer", "units", "dead"])
    layers["share"] = layers["dead"] / layers["units"]
    return DeadLayers(layers, len(x), _constant(torch.cat(logits)))


def _constant(logits: Tensor) -> int | None:
    """The class if the logits ``[N, K]`` of several inputs are the same up to rounding."""
    spread = float((logits.amax(0) - logits.amin(0)).max())
    same = len(logits) > 1 and spread <= 1e-6 * max(1.0, float(logits.abs().max()))
    return int(logits[0].argmax()) if same else None
