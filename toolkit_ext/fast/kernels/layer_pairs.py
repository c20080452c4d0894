"""Which layer alone takes the output of another, seen in one forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Pair = tuple[str, str]
Which = Callable[[nn.Module], bool]


def find_followers(model: nn.Module, x: Tensor, first: Which, second: Which) -> list[Pair]:
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
            users = _users(model(x.detach().requires_grad_()).grad_fn)
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
