"""The settings of an evaluation: what its record names and its stored batches depend on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from toolkit_ext.bounds import COUNT, SEED
from toolkit_ext.data import ImageSet, to_unit, usual_batch
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.loading.checks import Subject, hash_model
from toolkit_ext.evaluation.protocol import Budget, Protocol
from toolkit_ext.evaluation.result import Evaluation
from toolkit_ext.evaluation.running.recheck import tolerance
from toolkit_ext.evaluation.running.state import differences, stored_key
from toolkit_ext.evaluation.suite.autoattack import Threat, targets
from toolkit_ext.evaluation.suite.precision import Precision, pass_seconds
from toolkit_ext.tensors import hash_tensors

BatchSize = int | Literal["auto"]
CANDIDATES = (64, 128, 250, 500, 1000)  # batch sizes that "auto" tries
_GAIN = 1.05  # a larger batch takes more memory, so it must raise throughput by this factor
_SECONDS, _LONGEST = 0.2, 2.0
_PER_ATTACK = ("name", "attacks", "attack_args")  # stored batches are of one attack, with its arguments
_NOT_IN_KEY = ("tolerance", "attacks", "transfer_sha256")
_LIBRARIES = ("pyautoattack", "torchattacks", "adversarial-robustness-toolbox", "numpy")


def float32_arithmetic() -> str:
    """The float32 arithmetic that torch's flags allow, such as ``matmul highest, convolution tf32`` (CUDA only)."""
    convolution = getattr(torch.backends.cudnn, "conv", None)  # torch 2.9 and later: one flag per operation
    tf32 = torch.backends.cudnn.allow_tf32 if convolution is None else convolution.fp32_precision == "tf32"
    return f"matmul {torch.get_float32_matmul_precision()}, convolution {'tf32' if tf32 else 'float32'}"


def versions() -> dict[str, str]:
    """Versions of the installed libraries that can change a result."""
    found = {"torch": str(torch.__version__)}  # with the build, which the metadata lacks
    for library in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    return found


@dataclass(frozen=True)
class Settings:
    """Everything that the result of an evaluation depends on."""

    protocol: Protocol
    threat: Threat
    batch_size: int
    precision: Precision
    model_sha256: str
    data_sha256: str
    float32: str = field(default_factory=float32_arithmetic)
    versions: Mapping[str, str] = field(default_factory=versions)
    transfer_sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The settings as a record stores them, ready for JSON."""
        balls = {self.protocol.radius(name) for name in self.protocol.attacks}
        return {
            "seed": self.threat.seed,
            "batch_size": self.batch_size,
            "budget": asdict(self.threat.budget),
            "target_classes": self._targets(),
            "tolerance": {norm: tolerance(norm, eps) for norm, eps in sorted(balls)},
            "device": self.threat.device.type,
            "float32": self.float32,
            "versions": dict(self.versions),
            "precision": self.precision,
            "model_sha256": self.model_sha256,
            "data_sha256": self.data_sha256,
            **({"transfer_sha256": self.transfer_sha256} if self.transfer_sha256 else {}),
            **({"attacks": named} if (named := self.named()) else {}),
        }

    def _targets(self) -> int | dict[str, int]:
        """Number of target classes of AutoAttack's targeted attacks; by attack where they differ."""
        most = targets(self.threat.classes)
        if self.threat.norm != "L1" or self.threat.version == "plus":
            return most
        return {"apgd-t": targets(self.threat.classes, 5), "fab-t": most}

    def named(self) -> dict[str, Any]:
        """Library or code and arguments of each attack by name."""
        attacks = self.protocol.named().items()
        return {name: attack.facts(attack.arguments(self.protocol.attack_args)) for name, attack in attacks}

    def key(self, carry: Evaluation | None = None) -> dict[str, Any]:
        """What stored batches depend on; not the list of attacks, as each has its own batches."""
        rules = {name: value for name, value in self.protocol.to_dict().items() if name not in _PER_ATTACK}
        facts = {name: value for name, value in self.to_dict().items() if name not in _NOT_IN_KEY}
        key = {"model": facts.pop("model_sha256"), "data": facts.pop("data_sha256"), "protocol": rules, **facts}
        if carry is not None:
            key["carried"] = hash_tensors(sorted(carry.robust.items()))
        return key


def settle(
    subject: Subject,
    protocol: Protocol,
    seed: int,
    batch_size: int,
    budget: Budget,
    precision: Precision,
    source: nn.Module | None = None,
) -> Settings:
    """The settings of an evaluation; :class:`UserError` for a number outside its range."""
    seed = SEED.check("seed", seed, int)
    threat = Threat(protocol.norm, protocol.eps, protocol.version, subject.classes, seed, subject.device, budget)
    data = hash_tensors([("x", subject.x), ("y", subject.y)])
    transfer = "" if source is None else hash_model(source)
    return Settings(protocol, threat, batch_size, precision, hash_model(subject.model), data, transfer_sha256=transfer)


def check_carry(carry: Evaluation | None, settings: Settings) -> None:
    """:class:`UserError` if there is a ``carry`` that differs in more than ``eps``, or whose ``eps`` is not smaller."""
    if carry is None:
        return
    there, here = _rules(carry.protocol, carry.settings), _rules(settings.protocol, settings.to_dict())
    if differing := differences(there, here):
        raise UserError(f"carry: is of another evaluation, differing in {', '.join(differing)}; only eps may differ")
    smaller, eps = carry.protocol.eps, settings.protocol.eps
    if smaller >= eps:
        raise UserError(f"carry: its eps {smaller:g} is not allowed; it must be below {eps:g}")


def _rules(protocol: Protocol, settings: dict[str, Any]) -> dict[str, Any]:
    rules = {key: value for key, value in protocol.to_dict().items() if key not in ("name", "eps", "attacks")}
    rules["attack_args"] = settings.get("attacks", {})
    same = {key: settings[key] for key in ("model_sha256", "data_sha256", "budget", "precision")}
    same["transfer_sha256"] = settings.get("transfer_sha256", "")
    return {**rules, "attacks": ", ".join(sorted(protocol.attacks)), **same}


def batch_size_of(wanted: int | None, x: Tensor | ImageSet) -> int:
    """``wanted``, or what is usual for images such as ``x``; :class:`UserError` for no integer or less than 1."""
    if wanted is None:
        return usual_batch(x)
    return int(COUNT.check("batch_size", wanted, int))


def find_batch_size(wanted: BatchSize | None, subject: Subject, state_dir: str | Path | None, fresh: bool) -> int:
    """``wanted``, or what is usual for such images; for ``auto`` the size in ``state_dir``, else the fastest one.

    The one in ``state_dir`` goes first because results depend on the size.
    """
    wanted = usual_batch(subject.x) if wanted is None else parse_batch_size(wanted)
    if wanted != "auto":
        return wanted
    size = None if fresh or state_dir is None else stored_key(state_dir).get("batch_size")
    return size if isinstance(size, int) else measure(subject.copied or subject.model, subject.x, subject.device)


def measure(model: nn.Module, x: Tensor, device: torch.device) -> int:
    """The smallest of :data:`CANDIDATES` within 5% of the best throughput of forward and input-backward passes."""
    best, chosen = 0.0, CANDIDATES[0]
    for size in CANDIDATES:
        images = to_unit(x[:size].clone()).to(device)
        try:
            seconds = _seconds(model, images)
        except torch.OutOfMemoryError:
            break
        if len(images) / seconds > _GAIN * best:
            best, chosen = len(images) / seconds, size
        if size >= len(x) or seconds > _LONGEST:
            break
    return chosen


def _seconds(model: nn.Module, x: Tensor) -> float:
    """Fastest pass within about ``_SECONDS``, after one to warm up."""
    first = pass_seconds(model, x)
    if first > _LONGEST:
        return first
    times = [pass_seconds(model, x)]
    while sum(times) < _SECONDS:
        times.append(pass_seconds(model, x))
    return min(times)


def parse_batch_size(value: str | int) -> BatchSize:
    """``auto`` or an integer, also from text; :class:`UserError` for anything else."""
    if value == "auto":
        return "auto"
    number = isinstance(value, str) and value.isdecimal() and len(value) <= 10  # int() refuses thousands of digits
    size = int(value) if number else value
    try:
        return int(COUNT.check("batch_size", size, int))
    except UserError as error:
        raise UserError(f"{error}, or auto") from None
