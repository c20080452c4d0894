"""Flatten layers that hand their gradient back in channels last, where their input came in it.

Of itself a flatten layer turns it: torch gives the gradient in the order of the features, and the pooling in front of
it then copies its indices, its gradient and its result from one order to the other. Not a bit of any result changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from toolkit_ext.fast.kernels.layer_swap import StandIn, of_class, standing_in


@contextmanager
def ordered_flatten(*models: nn.Module, use: bool = True) -> Iterator[None]:
    """Within the context the layers of ``models`` that are ``nn.Flatten`` itself do so, and copies of them for good."""
    with standing_in(models, of_class(nn.Flatten), _Flatten, use=use):
        yield


class _Flatten(StandIn, nn.Flatten):
    def forward(self, input: Tensor) -> Tensor:  # torch's own name
        # Not on a leaf: it is the user's, and would keep the hook.
        if input.grad_fn is not None and not torch.compiler.is_compiling() and _is_turned(input):
            input.register_hook(_in_channels_last)
        return super().forward(input)


def _is_turned(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _in_channels_last(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)
