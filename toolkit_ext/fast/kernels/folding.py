"""Batch norm folded into the convolution before it, for passes in evaluation mode.

In evaluation mode batch norm is a fixed affine map of every channel, ``γ (h − μ) / √(σ² + ε) + β``, so a convolution
followed by it is one convolution with the weight ``s W`` and the bias ``s (b − μ) + β``, where ``s = γ / √(σ² + ε)``.
Which pairs belong together is read off the graph of a forward pass, and then proved by comparing two passes with
random statistics, so that a model that does something unforeseen is left unfolded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit_ext.fast.formats import full_float32
from toolkit_ext.fast.kernels.single_channel_conv import SingleChannelConv2d

Pair = tuple[str, str]
Which = Callable[[nn.Module], bool]
_TOLERANCE = 1e-4  # of the proof; a wrong pair is off by about 1


class _Rest(nn.Module):
    """What is left of a batch norm that also holds dropout and activation, as timm's ``BatchNormAct2d`` does."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.drop, self.act = norm.drop, norm.act

    def forward(self, x: Tensor) -> Tensor:
        """``act(drop(x))``."""
        after: Tensor = self.act(self.drop(x))
        return after


def _has_hooks(module: nn.Module) -> bool:
    """Whether something happens before or after the layer's own forward pass (weight norm, pruning, ...)."""
    return bool(module._forward_pre_hooks or module._forward_hooks)


def _is_norm(module: nn.Module) -> bool:
    if _has_hooks(module) or parametrize.is_parametrized(module):
        return False
    known = type(module) is nn.BatchNorm2d or (
        isinstance(module, nn.BatchNorm2d) and {"drop", "act"} <= module._modules.keys()
    )
    return known and module.running_mean is not None and module.running_var is not None


def _is_convolution(module: nn.Module) -> bool:
    plain = not parametrize.is_parametrized(module) and not _has_hooks(module)
    return type(module) in (nn.Conv2d, SingleChannelConv2d) and plain


def find_pairs(model: nn.Module, x: Tensor) -> list[Pair]:
    """Names of the convolutions, each with the batch norm that alone takes its output, seen in one pass of ``x``."""
    return _layer_pairs(model, x, _is_convolution, _is_norm)


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    return (
        torch.ones_like(norm.running_mean) if norm.weight is None else norm.weight,
        torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias,
    )


def folded(pairs: Sequence[tuple[Any, Any]]) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases of convolutions that do what each ``(conv, norm)`` of ``pairs`` does in evaluation mode.

    The same bits as torch's ``fuse_conv_bn_weights``, which takes ten kernels a pair; here most take all pairs at once.
    """
    if not pairs:
        return [], []
    means, variances = ([getattr(norm, name) for _, norm in pairs] for name in ("running_mean", "running_var"))
    scales, shifts = (list(each) for each in zip(*(_affine(norm) for _, norm in pairs), strict=True))
    roots = torch._foreach_rsqrt(torch._foreach_add(variances, [norm.eps for _, norm in pairs]))
    factors = torch._foreach_mul(scales, roots)
    weights = [conv.weight * factor.view(-1, 1, 1, 1) for (conv, _), factor in zip(pairs, factors, strict=True)]
    biases = list(torch._foreach_neg(means))
    if own := [(bias, conv.bias) for bias, (conv, _) in zip(biases, pairs, strict=True) if conv.bias is not None]:
        torch._foreach_add_(*(list(each) for each in zip(*own, strict=True)))
    torch._foreach_mul_(biases, roots)
    torch._foreach_mul_(biases, scales)
    torch._foreach_add_(biases, shifts)
    return weights, biases


@torch.no_grad()
def fold(model: nn.Module, pairs: list[Pair]) -> None:
    """Fold ``pairs`` of ``model`` in place; its batch norms become identities (or the activation they hold)."""
    modules = dict(model.named_modules())
    layers: list[tuple[Any, Any]] = [(modules[conv], modules[norm]) for conv, norm in pairs]
    for (_, norm_name), (conv, norm), weight, bias in zip(pairs, layers, *folded(layers), strict=True):
        conv.weight, conv.bias = (nn.Parameter(value, requires_grad=False) for value in (weight, bias))
        parent, _, last = norm_name.rpartition(".")
        model.get_submodule(parent)._modules[last] = _Rest(norm) if hasattr(norm, "act") else nn.Identity()


@torch.no_grad()
@full_float32()  # with the 10 bits of TF32 the two passes would differ, and nothing would be folded
def foldable_pairs(copy: Callable[[], nn.Module], x: Tensor) -> list[Pair]:
    """The pairs of a model that may be folded; empty where folding would change what it computes.

    ``copy`` makes a copy of the model in evaluation mode, which is spoiled here; ``x`` ``[N, C, H, W]`` are a few
    inputs.
    """
    model = copy()
    pairs = find_pairs(model, x)
    modules = dict(model.named_modules())
    generator = torch.Generator().manual_seed(0)  # its own: the run's random numbers are not to depend on this
    for _, norm_name in pairs:
        norm: Any = modules[norm_name]
        for value, low in ((norm.running_mean, -0.5), (norm.running_var, 0.5), *((v, 0.5) for v in _affine(norm))):
            value.copy_(torch.rand(value.shape, generator=generator) + low)
    before = model(x)
    fold(model, pairs)
    after = model(x)
    error, size = float((after - before).abs().max()), float(before.abs().max())
    return pairs if error <= _TOLERANCE * size else []  # never where a number is NaN


def _layer_pairs(model: nn.Module, x: Tensor, first: Which, second: Which) -> list[Pair]:
    """Names of the layers that are ``first``, each with the one that is ``second`` and alone takes its output.

    Both are called once in a pass of ``x`` ``[N, C, H, W]``. What a model does beside the graph of its gradient is not
    seen, so what is made of this is to be proved by comparing outputs.
    """
    made: dict[int, tuple[str, Tensor]] = {}
    taken: list[tuple[Pair, Any]] = []
    calls: Counter[str] = Counter()
    firsts = {name for name, module in model.named_modules() if first(module)}

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            calls[name] += 1
            if name in firsts:
                made[id(output)] = (name, output)  # the output is held, so that no other tensor gets its id
            elif inputs and id(inputs[0]) in made:
                before, tensor = made[id(inputs[0])]
                taken.append(((before, name), tensor.grad_fn))

        return hook

    layers = [(name, m) for name, m in model.named_modules() if name in firsts or second(m)]
    handles = [module.register_forward_hook(watch(name)) for name, module in layers]
    try:
        with torch.enable_grad():
            # Held while the graph is read: older torch (2.11) drops a node of a custom function with its output.
            output = model(x.detach().requires_grad_())
            users = _users(output.grad_fn)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair, node in taken if users[node] == 1 and all(calls[name] == 1 for name in pair)]


def _users(last: Any) -> Counter[Any]:
    """How many operations take the output of each operation, in the graph that ends in ``last`` (None: no graph)."""
    found: Counter[Any] = Counter()
    seen, waiting = {last}, [last] if last is not None else []
    while waiting:
        for node in (node for node, _ in waiting.pop().next_functions if node is not None):
            found[node] += 1
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return found
