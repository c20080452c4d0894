"""An attack captured once as a CUDA graph: one launch in place of hundreds a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from toolkit_ext.errors import UserError

Call = Callable[[Tensor, Tensor], Tensor]


class CapturedAttack:
    """Replays an attack on the memory that it was captured on; every replay draws new random numbers.

    Captured is what comes twice in a row, so that libraries have set up what a graph cannot hold, and that nothing is
    captured for a smaller last batch or while eps changes with every step. Other calls run as they are.
    """

    def __init__(self) -> None:
        self._key: Any = None
        self._before: Any = None

    def __call__(self, attack: Any, call: Call, x: Tensor, y: Tensor) -> Tensor:
        """``call(x, y)``, where ``call`` runs ``attack`` on a model whose weights stay where they are in memory.

        Raises:
            UserError: an operation that cannot be captured, such as one whose result the host needs.
        """
        key = attack, x.shape, x.stride(), x.dtype, y.shape, y.dtype
        before, self._before = self._before, key
        if key != self._key:
            if key != before:
                return call(x, y)
            self._capture(key, call, x, y)
        self._x.copy_(x)
        self._y.copy_(y)
        self._graph.replay()
        return self._found.clone()  # the next replay writes into the same memory

    def _capture(self, key: Any, call: Call, x: Tensor, y: Tensor) -> None:
        self._key = None  # if this fails, there is nothing to replay
        self._x, self._y, self._graph = x.clone(), y.clone(), torch.cuda.CUDAGraph()
        try:
            # Threads of a DataLoader may pin memory meanwhile.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._found = call(self._x, self._y)
        except RuntimeError as error:
            reason = next(iter(str(error).splitlines()), "")
            raise UserError(f"compile_mode: cuda-graph cannot capture this attack ({reason}); use none") from error
        self._key = key
