"""Calls the attacks of torchattacks and of ART on a model whose mode the caller has set, with this package's names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError

_FLATTENS = ("PGDL2",)
"""Attacks that look at images and gradients through ``.view(N, -1)``, which a channels_last layout does not have."""


class _View(nn.Module):
    """What torchattacks gets to see: the model's forward pass and a device, nothing that it could change.

    torchattacks prints the whole model to find its name and switches modes by ``eval()`` and ``train()`` on all of it,
    which would turn on a batch norm that the user froze. Held outside the module tree, the model stays as it is.
    """

    def __init__(self, model: nn.Module, device: torch.device, *, flat: bool) -> None:
        super().__init__()
        self._flat = flat
        object.__setattr__(self, "_target", model)
        object.__setattr__(self, "_anchor", nn.Parameter(torch.empty(0, device=device), requires_grad=False))

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        yield self._anchor  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        if self._flat:  # the way back through these views makes the gradient contiguous
            x = x.flatten(1).unflatten(1, x.shape[1:])
        logits: Tensor = self._target(x)  # type: ignore[operator]
        return logits

    def __repr__(self) -> str:
        return "View()"


def run_torchattacks(name: str, model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """Adversarial examples ``[N, C, H, W]`` of ``torchattacks.<name>(model, **options)``.

    An example whose input gradient vanishes comes back as NaN from MIFGSM (0/0) and, at a zero perturbation, from
    PGDL2; such an example keeps its clean pixels.
    """
    import torchattacks

    flat = name in _FLATTENS
    attack = getattr(torchattacks, name)(_View(model, x.device, flat=flat), **options)
    with torch.enable_grad():
        crafted: Tensor = attack(x.contiguous() if flat else x, y).detach()
    return torch.where(crafted.isfinite(), crafted, x)


def run_art(name: str, model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """Adversarial examples ``[N, C, H, W]`` of ``art.attacks.evasion.<name>``.

    ``options`` are ART's own (``eps``, ``eps_step``, ``max_iter``, ``norm``, ``num_random_init``, ``decay``). ART
    works through NumPy, with its random numbers from NumPy's global generator.

    Raises:
        UserError: what ART refuses, in its own words.
    """
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
    try:
        attack = getattr(evasion, name)(estimator, batch_size=len(x), **options)
    except ValueError as error:
        raise UserError(f"backend art: {error}") from error
    one_hot = nn.functional.one_hot(y, classes).float().cpu().numpy()
    with torch.enable_grad():
        crafted = attack.generate(x.detach().float().cpu().numpy(), one_hot)
    return torch.from_numpy(crafted).to(x)
