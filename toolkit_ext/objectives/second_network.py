"""A second network that is trained beside the model, and what objectives compute with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.tensors import running_statistics
from toolkit_ext.types import Batch, Resources


class SecondNetwork:
    """``network`` with the run's optimiser for it. Its gradient is kept until the model has taken its own step.

    Of several gradients in one step the last counts, as the model's update then uses its own last one (AMP, AWP).
    """

    def __init__(self, network: nn.Module, resources: Resources) -> None:
        self.network, self.exchange = network, resources.exchange
        self.optimizer = resources.optimizer(network)
        self._weights = [weight for weight in network.parameters() if weight.requires_grad]
        self._gradients: Sequence[Tensor] = ()
        self._examples = 0

    def logits(self, x: Tensor) -> Tensor:
        """Logits ``[N, K]`` in training mode, with a graph to the network's weights."""
        with torch.enable_grad():
            found: Tensor = self.network.train()(x)
        return found

    def keep_gradient(self, loss: Tensor, examples: int) -> None:
        """Keep the gradient of ``loss``, a mean over ``examples``, in the network's weights."""
        self._examples = examples
        self._gradients = torch.autograd.grad(loss, self._weights, allow_unused=True, materialize_grads=True)

    def step(self, batch: Batch) -> None:
        """One step along the gradient kept last; on several processes it and the batch statistics become common.

        Raises:
            UserError: that gradient is not of the whole ``batch``.
        """
        check_whole(self._examples, batch)
        gradients = [gradient.clone() for gradient in self._gradients]
        self.exchange([*gradients, *running_statistics(self.network)])
        for weight, gradient in zip(self._weights, gradients, strict=True):
            weight.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()


def check_whole(examples: int, batch: Batch) -> None:
    """Raise :class:`UserError` if an objective saw ``examples`` alone of ``batch`` in its last pass."""
    if examples != len(batch.x):
        raise UserError("accumulate: is not allowed with an objective that learns from the whole batch; use 1")


@torch.no_grad()
def labels_of(network: nn.Module, x: Tensor) -> Tensor:
    """The classes ``[N]`` that ``network`` predicts in evaluation mode."""
    labels: Tensor = network.eval()(x).argmax(dim=1)
    return labels
