"""Forward hooks that put something else in the place of a layer's output, and always come off again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from toolkit_ext.errors import UserError

Replace = Callable[[int, Tensor], Tensor]


@contextmanager
def replaced(model: nn.Module, layers: Mapping[str, nn.Module], replace: Replace) -> Iterator[None]:
    """Within the context, every forward pass of ``model`` goes on with ``replace(i, output)`` after its i-th layer.

    ``i`` counts ``layers`` from 0 in their order.

    Raises:
        UserError: in the forward pass, a layer that is called twice or whose output is not a tensor of real numbers
            with the batch as its first dimension; after it, a layer that was not called.
    """
    called: set[str] = set()
    batch = 0

    def begin(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal batch
        called.clear()
        batch = len(inputs[0])

    def hook(index: int, name: str) -> Callable[[nn.Module, Any, Any], Tensor]:
        def run(_: nn.Module, __: Any, output: Any) -> Tensor:
            if name in called:
                raise UserError(f"deep_layers: {name} is called twice in one forward pass; choose layers called once")
            called.add(name)
            return replace(index, _checked(name, output, batch))

        return run

    def end(*_: Any) -> None:
        if missing := [name for name in layers if name not in called]:
            raise UserError(f"deep_layers: {', '.join(missing)} takes no part in the forward pass; choose other layers")

    handles = [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]
    try:
        handles += [module.register_forward_hook(hook(i, name)) for i, (name, module) in enumerate(layers.items())]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _checked(name: str, output: Any, batch: int) -> Tensor:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f"deep_layers: {name} returns a {kind}; choose layers that return one tensor of real numbers")
    if output.dim() < 2 or len(output) != batch:
        shape = "x".join(map(str, output.shape))
        raise UserError(f"deep_layers: {name} returns shape {shape}, whose first dimension is not the batch of {batch}")
    return output


@dataclass(frozen=True, eq=False)
class Hidden:
    """The perturbations ``d_l`` of the hidden layers, by module name; called with a model, opens their context.

    In the context, every forward pass of the model computes ``n_l = f_l(w_l, n_{l−1}) + d_l`` (equation 6). The
    passes must be of the batch that the perturbations were made for.
    """

    perturbations: Mapping[str, Tensor]

    def __call__(self, model: nn.Module) -> AbstractContextManager[None]:
        """The context for ``model``, which has modules of these names.

        Raises:
            UserError: ``model`` lacks one of them; inside the context, as in :func:`replaced`.
        """
        modules = dict(model.named_modules())
        if missing := [name for name in self.perturbations if name not in modules]:
            raise UserError(f"deep_layers: the model has no module {missing[0]}, which the attack perturbed")
        added = list(self.perturbations.values())

        def add(layer: int, output: Tensor) -> Tensor:
            if output.shape != added[layer].shape:
                raise UserError(f"deep_layers: {[*output.shape]} is not the batch of {[*added[layer].shape]} attacked")
            return output + added[layer].to(output.dtype)

        return replaced(model, {name: modules[name] for name in self.perturbations}, add)
