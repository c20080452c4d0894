"""Another model of the same data, whose adversarial examples are tried on the one that is evaluated."""

from __future__ import annotations

from torch import Tensor, nn

from toolkit_ext.data import to_unit
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.loading.adapters import Classifier, as_module
from toolkit_ext.evaluation.loading.checks import check_model, find_device, hash_model
from toolkit_ext.evaluation.loading.door import through_the_door
from toolkit_ext.evaluation.running.isolation import isolated


def behind_the_door(model: nn.Module, x: Tensor) -> nn.Module:
    """``model``, behind a :class:`.Door` if it needs one for the images ``x`` ``[N, C, H, W]``."""
    device = find_device(model)
    with isolated(model, device):
        return through_the_door(model, to_unit(x[:1]).to(device))


def as_substitute(transfer: Classifier | None, model: nn.Module, x: Tensor) -> nn.Module | None:
    """``transfer`` as a module, ready for the images ``x`` ``[N, C, H, W]``; None if there is none.

    Raises:
        UserError: it cannot be evaluated, has other classes or another device than ``model``, or is ``model`` itself.
    """
    if transfer is None:
        return None
    device = find_device(model)
    image = to_unit(x[:1]).to(device)
    try:
        substitute = as_module(transfer)
        find_device(substitute, device)
        substitute = behind_the_door(substitute, x)
        with isolated(model, device), isolated(substitute, device):
            classes, others = check_model(model, image, None), check_model(substitute, image, None)
    except UserError as error:
        raise UserError(f"transfer: {error}") from error
    if classes != others:
        raise UserError(f"transfer: has {others} classes, the model has {classes}; they must be the same")
    if hash_model(model) == hash_model(substitute):
        raise UserError("transfer: is the model itself; give another checkpoint, such as an undefended one")
    return substitute
