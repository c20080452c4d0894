"""What runs cost on one core: passes of images through the model, times the seconds of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean, median

from toolkit_ext.claims.runs import TUNING_SEED, history, matching
from toolkit_ext.experiments.counting import count_passes, deciding
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.results import Record

Network = tuple[str, int, str]
"""Name of the backbone, its width, and the precision."""

# Passes of each test image: forward and backward of every step, on the share of images that attacks usually find.
ATTACKS = {
    "clean": 1, "fgsm": 2, "pgd20": 25, "pgd40": 50, "pgd100": 125, "pgd_l2": 25, "mim": 12,
    "apgd_ce": 125, "apgd_dlr": 125, "apgd_ce_t": 700, "square": 1500, "aa": 2500,
}  # fmt: skip
# Images times passes of a probe that is not an evaluation: eigenvectors of 500 images, attacks on up to 1,000.
_PROBE = 300_000
_IMAGES = {"digits": 1_437, "mnist": 60_000}
_FULL = 300  # images of the probe ``full``
_MEMBERS = 3  # of an ensemble


def alike(records: Iterable[Record]) -> dict[tuple[str, ...], list[Record]]:
    """``records`` by data set and backbone, so that few need a closer look."""
    found: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        found.setdefault((record["data"]["name"], record["backbone"]["name"]), []).append(record)
    return found


@dataclass
class Costs:
    """Estimates from ``records`` of the same run or network; else from ``seconds``, measured for one pass."""

    records: Sequence[Record]
    seconds: Mapping[Network, float]

    def __post_init__(self) -> None:
        self._alike = alike(self.records)
        self._whole: dict[str, float] = {}

    def _like(self, experiment: Experiment) -> list[Record]:
        return self._alike.get((experiment.data, experiment.backbone), [])

    def run(self, experiment: Experiment, probes: Iterable[str] = ()) -> float:
        """Seconds of training, evaluation and ``probes``; those of recorded runs with other seeds, if there are any."""
        one = self.of_pass(experiment)
        attacked = sum(ATTACKS[attack] for attack in experiment.attacks) * (experiment.n_test or 10_000)
        name = replace(experiment, seed=0).run_id
        if name not in self._whole:
            same = [times for run in matching(experiment, self._like(experiment)) if (times := _taken(run))]
            self._whole[name] = fmean(same) if same else (training_passes(experiment) + attacked) * one
        return self._whole[name] + one * sum(_probe_passes(probe, experiment, attacked) for probe in probes)

    def of_pass(self, experiment: Experiment) -> float:
        """Seconds of a pass of one image: the median of records of the network, else that of ``seconds``."""
        key = network(experiment)
        rates = [rate for record in self._like(experiment) if (rate := _rate(record, experiment))]
        known = [value for (name, _, _), value in self.seconds.items() if name == key[0]]
        if rates:
            return median(rates)
        return self.seconds.get(key, max(known or self.seconds.values(), default=1e-4))


def network(experiment: Experiment) -> Network:
    """What the seconds of a pass depend on the most."""
    width = experiment.backbone_args.get("width", 0)
    return experiment.backbone, int(width), str(experiment.hyper_parameters.get("precision", "fp32"))


def training_passes(experiment: Experiment) -> float:
    """Images times passes of a training, without its validation."""
    found = _counted(experiment.method, tuple(sorted(deciding(experiment.method, experiment.hyper_parameters).items())))
    return 0.9 * (experiment.n_train or _IMAGES.get(experiment.data, 50_000)) * experiment.epochs * found


@cache
def _counted(method: str, options: tuple[tuple[str, object], ...]) -> float:
    found = count_passes(method, **dict(options))
    return found.forward + found.backward


def _probe_passes(name: str, experiment: Experiment, attacked: float) -> float:
    if name == "ensemble":
        return _MEMBERS * attacked
    if name == "last":
        return (1 if experiment.attacks == ("clean",) else ATTACKS["apgd_ce"]) * (experiment.n_test or 10_000)
    return _FULL * ATTACKS["aa"] if name == "full" else _PROBE


def _taken(record: Record) -> float | None:
    trained, evaluated = record["times"]["train_s"], record["times"]["eval_s"]
    if record["seed"] == TUNING_SEED or trained is None or evaluated is None:
        return None
    return trained + evaluated


def _rate(record: Record, experiment: Experiment) -> float | None:
    """Seconds of a pass of one image in the fastest epoch of ``record``, if it is of the same network and images."""
    passes = record["details"].get("claim", {}).get("passes")
    backbone, epochs = record["backbone"], [row["seconds"] for row in history(record)]
    found = backbone["name"], record["hyper_parameters"].get("precision", "fp32"), record["data"]["name"]
    asked = experiment.backbone, network(experiment)[2], experiment.data
    if not passes or not epochs or found != asked or backbone["args"] != dict(experiment.backbone_args):
        return None
    rate: float = min(epochs) / record["data"]["train"] / (passes["forward"] + passes["backward"])
    return rate
