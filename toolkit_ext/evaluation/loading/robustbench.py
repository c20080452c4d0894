"""Models of RobustBench, where its package is installed and the model's files are there."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from toolkit_ext.backbones.making import Shape
from toolkit_ext.errors import UserError, check_choice, one_line

ROBUSTBENCH = "robustbench:"
THREATS = ("Linf", "L2", "corruptions")
_DATA = {10: "cifar10", 100: "cifar100", 1000: "imagenet"}  # by number of classes
_FOLDER = Path("models")  # RobustBench's own default


def load_robustbench(source: str, shape: Shape | None, threat: str) -> tuple[nn.Module, str]:
    """The model of ``source``, ``robustbench:NAME``, for inputs in [0, 1], and its name.

    RobustBench's files are pickles, and loading one runs its code. Nothing is downloaded.

    Args:
        source: ``robustbench:NAME``, a name of RobustBench's model zoo.
        shape: Its number of classes tells the data set: CIFAR-10, CIFAR-100 or ImageNet.
        threat: ``Linf``, ``L2`` or ``corruptions``.

    Raises:
        UserError: the package or the files are missing, or RobustBench does not know the model.
    """
    name = source.removeprefix(ROBUSTBENCH)
    check_choice("threat", threat, THREATS)
    data = _DATA.get(shape.num_classes) if shape else None
    if data is None:
        raise UserError(f"checkpoint {source}: RobustBench has models of {', '.join(_DATA.values())} alone")
    try:
        from robustbench.utils import load_model
    except ImportError as error:
        raise UserError(f"checkpoint {source}: the package robustbench cannot be imported ({error})") from error
    folder = _FOLDER / data / threat
    if not any(folder.glob(f"{name}*.pt")):
        raise UserError(f"checkpoint {source}: {folder / name}.pt is not there; download it with robustbench first")
    try:
        model = load_model(model_name=name, model_dir=str(_FOLDER), dataset=data, threat_model=threat)
    except Exception as error:  # names, downloads and pickles fail in different ways
        raise UserError(f"checkpoint {source}: cannot be loaded ({one_line(error, 200)})") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"checkpoint {source}: is a {type(model).__name__}, no torch.nn.Module")
    return model, name
