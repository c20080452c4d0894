"""What is usual for a data set: the protocol to evaluate by, and the training where no method is named.

Each preset has the settings of one published training, named in its ``source``: runs of this project at a full size
may replace them, once they choose on validation data. Nothing is chosen by accuracies on test images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit_ext.errors import UserError
from toolkit_ext.trainers.compose import AXES, known
from toolkit_ext.trainers.methods import METHODS

if TYPE_CHECKING:
    from toolkit_ext.evaluation import Protocol


def protocol_of(
    data: str,
    hyper_parameters: Mapping[str, Any],
    named: str | None = None,
    attacks: tuple[str, ...] = (),
    attack_args: Mapping[str, Any] | None = None,
) -> Protocol:
    """The protocol ``named``, else the usual one for a data set, norm and ``eps``; ``attacks`` replace its own.

    Its attacks by name get what they have of ``attack_args``.
    """
    from toolkit_ext.attacks.by_name import taken
    from toolkit_ext.evaluation import load_protocol, protocol_for

    usual = protocol_for(data, hyper_parameters.get("norm"), hyper_parameters.get("eps"))
    protocol = load_protocol(named or usual)
    if attacks:
        protocol = protocol.at(attacks=attacks, attack_args={})
    if not attack_args:
        return protocol
    return protocol.at(attack_args={**protocol.attack_args, **taken(attack_args, list(protocol.named().values()))})


# A given option, and the options of a preset that mean nothing beside another value of it.
_TOGETHER: dict[str, tuple[str, ...]] = {
    "norm": ("eps", "eps_min", "eps_max", "alpha", "protocol"),
    "eps": ("eps_min", "eps_max", "alpha", "protocol"),
    "steps": ("alpha",),
    "epochs": ("milestones",),
    "backbone": ("backbone_arg",),
    "weights": ("lr",),  # the rate of fine-tuning instead
    "init": ("lr", "backbone", "backbone_arg"),
}


@dataclass(frozen=True)
class Preset:
    """A training: ``method``, ``hyper_parameters``, and ``fields``, other options of ``train`` by name.

    ``source`` says where the settings come from: the paper, its table, and what differs here. An eps is text, as on the
    command line: the same settings in words are the same run.
    """

    method: str
    source: str
    hyper_parameters: Mapping[str, Any]
    fields: Mapping[str, Any]

    def with_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of ``train`` that this training has, less those ``given`` and what means nothing beside them.

        If ``given`` has another choice on an axis, the hyper-parameters of the preset's own choice are left out.

        >>> PRESETS["cifar10"].with_options({"epochs": 30, "steps": 5})["lr"]
        0.1
        >>> "alpha" in PRESETS["cifar10"].with_options({"epochs": 30, "steps": 5})
        False
        """
        left = {*given, *(other for name in given for other in _TOGETHER.get(name, ()))}
        axes = {name: value for name, value in {**self.hyper_parameters, **given}.items() if name in AXES}
        fits = {*known(METHODS[self.method], axes), *AXES}
        own = {name: value for name, value in self.hyper_parameters.items() if name in fits}
        return {name: value for name, value in {**self.fields, **own}.items() if name not in left}


_STEPS_OF_32_PIXELS: dict[str, Any] = {"eps": "8/255", "steps": 10, "alpha": 2 / 255, "awp_gamma": 0.01}
_HALVES: dict[str, Any] = {"lr": 0.1, "lr_schedule": "multistep", "weight_decay": 5e-4}
_NETWORK = {"backbone": "preact_resnet18", "epochs": 200, "batch_size": 128}
_AWP = (
    "Wu, Xia, Wang, Adversarial weight perturbation helps robust generalization, NeurIPS 2020, table 2 (AT-AWP, "
    "PreAct ResNet-18; gamma as in the authors' code)"
)
_CIFAR = Preset("awp", _AWP, {**_STEPS_OF_32_PIXELS, **_HALVES, "augment": "crop-flip"}, _NETWORK)

PRESETS = {
    "mnist": Preset(
        "pgd",
        "Madry et al., Towards deep learning models resistant to adversarial attacks, ICLR 2018, table 1 (MNIST; "
        "network, 100,000 steps of 50 images and step sizes as in the authors' mnist_challenge)",
        {
            **{"eps": "0.3", "steps": 40, "alpha": 0.01, "optimizer": "adam", "lr": 1e-4, "lr_schedule": "constant"},
            **{"weight_decay": 0.0, "measure_every": 5},
        },
        {"backbone": "lenet", "backbone_arg": {"width": 16}, "epochs": 93, "batch_size": 50},
    ),
    "cifar10": _CIFAR,
    "cifar10-jpeg": _CIFAR,  # the same images, compressed
    "cifar100": _CIFAR,
    "gtsrb": Preset(
        "awp",
        f"no published training is known to us, so that of CIFAR-10 without flips, which turn signs: {_AWP}",
        {**_STEPS_OF_32_PIXELS, **_HALVES, "augment": "crop"},
        _NETWORK,
    ),
    "digits": Preset(
        "pgd",
        "no paper has them: PGD training (Madry et al., ICLR 2018) with the settings of recipes/digits_methods.py, the "
        "same for all methods",
        {"eps": "0.1", "steps": 10, "lr": 0.05},
        {"backbone": "lenet", "backbone_arg": {"width": 8}, "epochs": 20, "batch_size": 64},
    ),
    "folder": Preset(
        "pgd",
        "Salman et al., Do adversarially robust ImageNet models transfer better?, NeurIPS 2020, appendix A (ImageNet, "
        "ResNet-18; here batches of 256)",
        {
            **{"eps": "4/255", "steps": 3, "alpha": 8 / 765, "augment": "resized-crop-flip"},
            **{"lr": 0.1, "lr_schedule": "multistep", "milestones": (30, 60), "weight_decay": 1e-4},
        },
        {"backbone": "resnet18", "epochs": 90, "batch_size": 256, "protocol": "linf_4_255"},
    ),
}


def preset_for(data: str) -> Preset:
    """The preset of the data set ``data``, or of its kind: that of ``folder`` for ``folder:photos``.

    Raises:
        UserError: there is none.
    """
    kind = data.partition(":")[0]
    if kind not in PRESETS:
        raise UserError(
            f"METHOD: none is given, and there is no preset for data {data!r}; name one of "
            f"{', '.join(METHODS)} (there is a preset for {', '.join(sorted(PRESETS))})"
        )
    return PRESETS[kind]
