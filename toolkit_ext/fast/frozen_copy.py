"""A copy of a model for attacks to look at: frozen, its weights cast and folded once a step, not at every pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit_ext.errors import UserError
from toolkit_ext.fast.formats import Forward, half_passes
from toolkit_ext.fast.kernels.folding import Pair, fold, foldable_pairs, folded
from toolkit_ext.types import Mode

Compiler = Callable[[Forward], Forward]
_CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in evaluation mode, frozen, with parametrised weights (spectral norm, ...) made plain ones.

    Raises:
        UserError: a model that cannot be copied.
    """
    try:
        made = copy.deepcopy(detach_computed(model))
    except Exception as error:  # whatever a user's module raises, it means the same here
        raise UserError(f"model: {type(model).__name__} cannot be copied ({error}); use speed off") from error
    for module in list(made.modules()):
        if parametrize.is_parametrized(module):
            _make_plain(module)
    made.zero_grad(set_to_none=True)
    return made.eval().requires_grad_(False)


def detach_computed(model: nn.Module) -> nn.Module:
    """Detach, in place, weights that hooks compute in each pass (weight norm, pruning), so that copies can be made.

    Returns ``model``.
    """
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and not value.is_leaf:
                vars(module)[name] = value.detach()
    return model


@torch.no_grad()
def _make_plain(module: Any) -> None:
    # Not remove_parametrizations, which takes the weight off the class: the original is of the same class.
    module.parametrizations.eval()
    values = {name: getattr(module, name) for name in module.parametrizations}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value.clone(), requires_grad=False))


@contextmanager
def _evaluating_parametrizations(model: nn.Module) -> Iterator[None]:
    """Reading a parametrised weight in training mode would move its power iteration."""
    steps = [m for module in model.modules() if parametrize.is_parametrized(module) for m in _parts(module)]
    modes = [(step, step.training) for step in steps]
    try:
        for step, _ in modes:
            step.training = False
        yield
    finally:
        for step, training in modes:
            step.training = training


def _parts(module: Any) -> Iterator[nn.Module]:
    yield from module.parametrizations.modules()


def folded_copy(model: nn.Module, example: Tensor) -> nn.Module | None:
    """A frozen copy of ``model`` with batch norm folded into convolutions; None if it has none or cannot be copied.

    Args:
        model: in evaluation mode; it is read and never changed.
        example: a few inputs ``[N, C, H, W]`` in [0, 1], to find out what can be folded.
    """
    try:
        with _evaluating_parametrizations(model):
            pairs = foldable_pairs(lambda: plain_copy(model), example)
            made = plain_copy(model) if pairs else None
    except Exception:  # a user's module may raise anything in a copy; then it is used as it is
        return None
    if made is not None:
        fold(made, pairs)
    return made


class FrozenCopy:
    """A frozen copy of ``model`` that follows it: :meth:`refresh` takes over its weights and statistics.

    With ``dtype`` the passes run under autocast to it and give fp32 logits; weights of linear and convolution layers
    are held in it. Autocast casts frozen weights anew at every pass (its cache holds only weights that require
    gradients), so this saves as many casts as the attack has steps, and gives the same numbers.

    With ``folds`` batch norm is folded into the convolutions before it, in fp32 and before any cast.

    ``model`` itself is read and never changed. Modules keep their names; forward hooks are copied with the model.

    Args:
        model: the trained model.
        example: a few inputs ``[N, C, H, W]`` in [0, 1], to find out what can be folded.
        dtype: ``torch.bfloat16`` or ``torch.float16``; None is fp32.
        folds: fold batch norm; needs ``mode`` eval.
        mode: the mode of batch norm and dropout while attacking.
        compiler: what to make of the copy's forward function, such as ``torch.compile``.

    Raises:
        UserError: a model that cannot be copied.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        *,
        dtype: torch.dtype | None = None,
        folds: bool = False,
        mode: Mode = "eval",
        compiler: Compiler | None = None,
    ) -> None:
        self.model = model
        with _evaluating_parametrizations(model):
            self.pairs = foldable_pairs(lambda: plain_copy(model), example) if folds and mode == "eval" else []
            self.copy = plain_copy(model)
        fold(self.copy, self.pairs)
        self.copy.train(mode == "train")
        if dtype is not None:
            self._cast(dtype, example.device.type)
        self._wrap(dtype, compiler)
        self._targets = list(_targets(self.copy, self.pairs))

    def _cast(self, dtype: torch.dtype, device: str) -> None:
        users = [(id(w), isinstance(m, _CAST)) for m in self.copy.modules() for w in m._parameters.values()]
        elsewhere = {weight for weight, castable in users if not castable}
        for module in self.copy.modules():
            weights = module._parameters.items() if isinstance(module, _CAST) else ()
            for weight in (w for _, w in weights if w is not None and id(w) not in elsewhere):
                weight.data = weight.data.to(dtype, memory_format=torch.preserve_format)
            if device == "cpu" and getattr(module, "fused_attn", False):
                # timm's switch; beside the definition itself, torch's own path for it still costs a quarter more.
                module.fused_attn = False  # type: ignore[assignment]

    def _wrap(self, dtype: torch.dtype | None, compiler: Compiler | None) -> None:
        inner = self.copy.forward if compiler is None else compiler(self.copy.forward)

        def forward(x: Tensor) -> Tensor:
            with half_passes(x.device, dtype):
                logits: Tensor = inner(x)
            return logits.float() if dtype is not None and isinstance(logits, Tensor) else logits

        self.copy.forward = forward  # type: ignore[method-assign]  # on the instance, so that names stay as they are

    @torch.no_grad()
    def refresh(self) -> nn.Module:
        """Take over the model's weights, statistics and other buffers as they are now; returns the copy."""
        with _evaluating_parametrizations(self.model):
            modules = dict(self.model.named_modules())
            values = [(target, getattr(modules[owner], name)) for target, owner, name in self._targets]
            weights, biases = folded([(modules[conv], modules[norm]) for conv, norm in self.pairs])
            for (conv, _), weight, bias in zip(self.pairs, weights, biases, strict=True):
                layer: Any = self.copy.get_submodule(conv)
                values += [(layer.weight, weight), (layer.bias, bias)]
            if values:
                targets, sources = (list(each) for each in zip(*values, strict=True))
                torch._foreach_copy_(targets, sources)
        return self.copy


def _targets(made: nn.Module, pairs: list[Pair]) -> Iterator[tuple[Tensor, str, str]]:
    """Tensors of the copy that are taken over as they are: the tensor, and module and name of its origin."""
    skipped = {conv for conv, _ in pairs}
    for owner, module in made.named_modules():
        if owner not in skipped:
            for name, value in [*module._parameters.items(), *module._buffers.items()]:
                if value is not None:
                    yield value, owner, name
