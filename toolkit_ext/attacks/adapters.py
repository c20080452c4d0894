"""Calls attacks of torchattacks and ART on a model whose mode the caller has set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.random_state import derived_generators

_FLATTENS = ("PGDL2",)  # these call .view(N, -1), which fails on channels_last tensors


def exported(library: str) -> dict[str, type[Any]]:
    """The attacks that ``library``, ``torchattacks`` or ``art``, exports, by name.

    Raises:
        ImportError: it is not installed.
    """
    if library == "torchattacks":
        import torchattacks as module
        from torchattacks.attack import Attack as Base
    else:
        from art.attacks import EvasionAttack as Base
        from art.attacks import evasion as module
    return {name: kind for name, kind in vars(module).items() if isinstance(kind, type) and _is_attack(kind, Base)}


def _is_attack(kind: type[Any], base: type[Any]) -> bool:
    return issubclass(kind, base) and kind is not base


class ModelView(nn.Module):
    """The model's forward pass and device, without its module tree, which the libraries would print and change.

    Their ``train()`` on all modules would unfreeze a batch norm that the user froze. ART calls the layers of an
    ``nn.Sequential`` one by one, which hooks of the whole do not see. ``flat`` makes gradients contiguous; with a
    ``dtype`` the inputs are cast to it.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, *, flat: bool = True, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self._flat, self._dtype = flat, dtype
        object.__setattr__(self, "_target", model)
        object.__setattr__(self, "_anchor", nn.Parameter(torch.empty(0, device=device), requires_grad=False))

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        yield self._anchor  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self._dtype or x.dtype)
        if self._flat:  # the backward pass of these views makes the gradient contiguous
            x = x.flatten(1).unflatten(1, x.shape[1:])
        return self._target(x)  # type: ignore[operator, no-any-return]

    def __repr__(self) -> str:
        return "View()"


def run_torchattacks(
    name: str, model: nn.Module, x: Tensor, y: Tensor, *, flat: bool | None = None, **options: Any
) -> Tensor:
    """Adversarial examples ``[N, C, H, W]`` of ``torchattacks.<name>(model, **options)``.

    MIFGSM and PGDL2 return NaN (0/0) where gradient or perturbation vanish; such examples keep their clean pixels.
    ``flat`` makes images and gradients contiguous, by default for the attacks that are known to need it.
    """
    import torchattacks

    flat = name in _FLATTENS if flat is None else flat
    attack = getattr(torchattacks, name)(ModelView(model, x.device, flat=flat), **options)
    with torch.enable_grad():
        crafted: Tensor = attack(x.contiguous() if flat else x, y).detach()
    return torch.where(crafted.isfinite(), crafted, x)


def run_art(name: str, model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """Adversarial examples ``[N, C, H, W]`` of ``art.attacks.evasion.<name>``.

    ``options`` are ART's own (``eps``, ``eps_step``, ``max_iter``, ...). All random numbers follow from NumPy's global
    generator.

    Raises:
        UserError: options that ART refuses, with ART's message.
    """
    try:
        attack = make_art(name, model, x, **{"batch_size": len(x), **options})
    except ValueError as error:
        raise UserError(f"backend art: {error}") from error
    return generate_art(attack, x, y)


def make_art(name: str, model: nn.Module, x: Tensor, **options: Any) -> Any:
    """The attack ``art.attacks.evasion.<name>`` on a classifier around ``model``, for images like ``x``."""
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    estimator = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if x.is_cuda else "cpu",
    )
    return getattr(evasion, name)(estimator, **options)


def generate_art(attack: Any, x: Tensor, y: Tensor) -> Tensor:
    """Adversarial examples ``[N, C, H, W]`` of ``attack``, made by :func:`make_art`."""
    labels = y if y.ndim == 2 else nn.functional.one_hot(y, attack.estimator.nb_classes)
    with torch.enable_grad(), derived_generators():
        crafted = attack.generate(x.detach().float().cpu().numpy(), labels.float().cpu().numpy())
    return torch.from_numpy(crafted).to(x)
