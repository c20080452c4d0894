"""Run an attack by name on a model.

An attack of a library gets ``eps`` and ``norm`` where its constructor takes them, and the step size in the library's
own proportion to ``eps``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from toolkit_ext.attacks.adapters import ModelView, generate_art, make_art, run_torchattacks
from toolkit_ext.attacks.by_name.naming import NamedAttack
from toolkit_ext.errors import UserError
from toolkit_ext.own_code import error_text
from toolkit_ext.random_state import derived_generators, preserved_generators
from toolkit_ext.tensors import row_norms
from toolkit_ext.types import NORMS, Norm

_NORMS: dict[str, dict[Norm, Any]] = {
    "torchattacks": {norm: norm for norm in NORMS},
    "art": {"Linf": float("inf"), "L2": 2, "L1": 1},
}
_ROUNDING = 1e-4  # of training, where images may be of a shorter float type
_STEPS = ("alpha", "eps_step")


@dataclass(frozen=True)
class BudgetedAttack:
    """``attack`` with its radius and norm, for an attack that takes them, and with its further ``arguments``.

    ``arguments`` are those of :meth:`NamedAttack.arguments`. ``seed`` is that of NumPy's and Python's generators, which
    the libraries use beside torch's; both are restored. None leaves them alone, and draws what an attack wants as its
    ``seed`` from torch.
    """

    attack: NamedAttack
    eps: float
    norm: Norm
    arguments: Mapping[str, Any]
    seed: int | None = None

    def generate(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Perturbed images like ``x`` ``[N, C, H, W]`` in [0, 1] with classes ``y`` ``[N]``, whatever their distance.

        ``model`` is in evaluation mode and has frozen weights; the attack gets copies of ``x`` and ``y``.

        Raises:
            UserError: the attack fails, or returns no images of this shape.
        """
        seeded = nullcontext() if self.seed is None else preserved_generators(self.seed)
        with seeded, _failures(self.attack):
            found = self._run(model, x.clone(), y.clone())
        if not isinstance(found, Tensor) or found.shape != x.shape or not found.is_floating_point():
            shown = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            self._refuse(f"returns {shown}; it must return images, floats of shape {list(x.shape)}")
        return found.detach().to(x)

    def check_fits(self, model: nn.Module, x: Tensor) -> None:
        """See that it can be built for ``model``; :class:`UserError` if not. Only ART's tell before they run."""
        if self.attack.library == "art":
            with _failures(self.attack):
                self._art(model, x)

    def check_budget(self, x: Tensor, inputs: Tensor) -> None:
        """See that ``inputs`` ``[N, C, H, W]`` lie in [0, 1] and, but for rounding, within ``eps`` of ``x``.

        Raises:
            UserError: they do not; the attack cannot be trained on in this norm.
        """
        farthest = float(row_norms(inputs.float() - x.float(), self.norm).max())
        if not farthest <= self.eps * (1 + _ROUNDING) + _ROUNDING:
            moved = f"moves an image by {farthest:.4g} in {self.norm}, where eps is {self.eps:.4g}"
            self._refuse(f"{moved}; give the norm that it is made for")
        if float(inputs.min()) < 0 or float(inputs.max()) > 1:
            self._refuse("leaves the range of images, [0, 1]")

    def _refuse(self, text: str) -> NoReturn:
        raise UserError(f"{self.attack.option}: {self.attack.source} {text}")

    def _run(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        if not self.attack.library:
            with torch.enable_grad(), derived_generators():
                return self.attack.target(model, x, y, eps=self.eps, norm=self.norm, **self.arguments)
        if self.attack.library == "torchattacks":
            return run_torchattacks(self.attack.name, model, x, y, flat=True, **self._options(model, x))
        return generate_art(self._art(model, x), x, y)

    def _art(self, model: nn.Module, x: Tensor) -> Any:
        # Its black-box attacks ask in float64, NumPy's default.
        return make_art(self.attack.name, ModelView(model, x.device, dtype=x.dtype), x, **self._options(model, x))

    def _options(self, model: nn.Module, x: Tensor) -> dict[str, Any]:
        """The arguments of a library's attack: those of the user, and of the others those that it has."""
        known = self.attack.parameters
        found: dict[str, Any] = {"eps": self.eps, "batch_size": len(x), "verbose": False, "targeted": False}
        norms = _NORMS[self.attack.library]
        if "norm" in known and known["norm"].default in norms.values():
            found["norm"] = norms[self.norm]
        if "n_classes" in known:
            with torch.no_grad():
                found["n_classes"] = model(x[:1]).shape[1]
        if "seed" in known:
            found["seed"] = int(torch.randint(2**31, ())) if self.seed is None else self.seed
        for step in _STEPS:
            if step in known and "eps" in known:
                # Of equal eps the quotient is 1, so the library's default stays what it is.
                found[step] = known[step].default * (self.eps / known["eps"].default)
        return {name: value for name, value in found.items() if name in known} | dict(self.arguments)


@contextmanager
def _failures(attack: NamedAttack) -> Iterator[None]:
    """Make one line of whatever somebody else's code raises."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(f"{attack.option}: {attack.source} fails ({error_text(error)})") from error
