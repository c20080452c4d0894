"""Run an attack by name on a model.

An attack of a library gets ``eps`` and ``norm`` where its constructor takes them, and the step size in the library's
own proportion to ``eps``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toolkit_ext.attacks.adapters import ModelView, generate_art, make_art, run_torchattacks
from toolkit_ext.attacks.by_name.naming import NamedAttack
from toolkit_ext.errors import UserError
from toolkit_ext.own_code import error_text
from toolkit_ext.tensors import row_norms
from toolkit_ext.types import NORMS, Norm

_NORMS: dict[str, dict[Norm, Any]] = {
    "torchattacks": {norm: norm for norm in NORMS},
    "art": {"Linf": float("inf"), "L2": 2, "L1": 1},
}
_ROUNDING = 1e-4  # of training, where images may be of a shorter float type
_STEPS = ("alpha", "eps_step")


def craft(
    attack: NamedAttack,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm,
    arguments: Mapping[str, Any],
    seed: int | None = None,
) -> Tensor:
    """Run ``attack`` on images ``x`` ``[N, C, H, W]`` in [0, 1] with classes ``y`` ``[N]``.

    Args:
        attack: The attack.
        model: What is attacked, in evaluation mode and with frozen weights.
        x: Images; the attack gets a copy.
        y: Classes.
        eps: Radius, for an attack that takes one.
        norm: Norm of the budget, for an attack that takes one.
        arguments: Its further arguments, of :meth:`NamedAttack.arguments`.
        seed: Seed of NumPy's and Python's generators, which the libraries use beside torch's; both are put back. None
            leaves them alone, and draws what an attack wants as its ``seed`` from torch.

    Returns:
        The perturbed images, whatever their distance.

    Raises:
        UserError: the attack fails, or returns no images of this shape.
    """
    with seeded(seed), _failures(attack):
        found = _run(attack, model, x.clone(), y.clone(), eps, norm, arguments, seed)
    if not isinstance(found, Tensor) or found.shape != x.shape or not found.is_floating_point():
        shown = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        text = f"returns {shown}; it must return images, floats of shape {list(x.shape)}"
        raise UserError(f"{attack.option}: {attack.source} {text}")
    return found.detach().to(x)


def check_fits(
    attack: NamedAttack, model: nn.Module, x: Tensor, *, eps: float, norm: Norm, arguments: Mapping[str, Any]
) -> None:
    """See that ``attack`` can be built for ``model``; :class:`UserError` if not. Only ART's tell before they run."""
    if attack.library == "art":
        with _failures(attack):
            _make_art(attack, model, x, {**_options(attack, model, x, eps, norm, 0), **arguments})


@contextmanager
def _failures(attack: NamedAttack) -> Iterator[None]:
    """Make one line of whatever somebody else's code raises."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(f"{attack.option}: {attack.source} fails ({error_text(error)})") from error


def _run(
    attack: NamedAttack,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: Norm,
    arguments: Mapping[str, Any],
    seed: int | None,
) -> Any:
    if not attack.library:
        with torch.enable_grad():
            return attack.target(model, x, y, eps=eps, norm=norm, **arguments)
    options = {**_options(attack, model, x, eps, norm, seed), **arguments}
    if attack.library == "torchattacks":
        return run_torchattacks(attack.name, model, x, y, flat=True, **options)
    return generate_art(_make_art(attack, model, x, options), x, y)


def _make_art(attack: NamedAttack, model: nn.Module, x: Tensor, options: Mapping[str, Any]) -> Any:
    # Its black-box attacks ask in float64, NumPy's default.
    return make_art(attack.name, ModelView(model, x.device, dtype=x.dtype), x, **options)


def _options(
    attack: NamedAttack, model: nn.Module, x: Tensor, eps: float, norm: Norm, seed: int | None
) -> dict[str, Any]:
    """The arguments that do not come from the user, those of them that the constructor has."""
    known = attack.parameters
    found: dict[str, Any] = {"eps": eps, "batch_size": len(x), "verbose": False, "targeted": False}
    norms = _NORMS[attack.library]
    if "norm" in known and known["norm"].default in norms.values():
        found["norm"] = norms[norm]
    if "n_classes" in known:
        with torch.no_grad():
            found["n_classes"] = model(x[:1]).shape[1]
    if "seed" in known:
        found["seed"] = int(torch.randint(2**31, ())) if seed is None else seed
    for step in _STEPS:
        if step in known and "eps" in known:
            # Of equal eps the quotient is 1, so the library's default stays what it is.
            found[step] = known[step].default * (eps / known["eps"].default)
    return {name: value for name, value in found.items() if name in known}


def check_budget(attack: NamedAttack, x: Tensor, inputs: Tensor, norm: Norm, eps: float) -> None:
    """See that ``inputs`` ``[N, C, H, W]`` lie in [0, 1] and, but for rounding, within ``eps`` of ``x``.

    Raises:
        UserError: they do not; the attack cannot be trained on in this norm.
    """
    farthest = float(row_norms(inputs.float() - x.float(), norm).max())
    if not farthest <= eps * (1 + _ROUNDING) + _ROUNDING:
        text = f"moves an image by {farthest:.4g} in {norm}, where eps is {eps:.4g}; give the norm that it is made for"
        raise UserError(f"{attack.option}: {attack.source} {text}")
    if float(inputs.min()) < 0 or float(inputs.max()) > 1:
        raise UserError(f"{attack.option}: {attack.source} leaves the range of images, [0, 1]")


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed the generators of NumPy and Python until the end; None leaves them alone."""
    if seed is None:
        yield
        return
    states = np.random.get_state(), random.getstate()
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
