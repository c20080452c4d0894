"""Further evaluations of a trained model: in another budget, and as an ensemble with its snapshots."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from toolkit_ext.claims.probe import Found, Probe, Trained
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Ensemble, Protocol, evaluate, load_protocol, protocol_for
from toolkit_ext.trainers import TRAINERS
from toolkit_ext.trainers.compose import compose


def other_budget(protocol: str, attacks: Sequence[str] = ("clean", "aa")) -> Probe:
    """AutoAttack in the budget of another protocol than the one of the training."""

    def probe(trained: Trained) -> Found:
        return _evaluated(trained, trained.model(), load_protocol(protocol).at(attacks=tuple(attacks)))

    return probe


def ensemble() -> Probe:
    """The same attacks on the ensemble of the snapshots at the resets of the schedule and the last model."""

    def probe(trained: Trained) -> Found:
        names = [path.name for path in sorted(trained.folder.glob("snapshot-*"))] + ["last"]
        chosen = trained.experiment
        schedule = compose(TRAINERS[chosen.method].method, chosen.hyper_parameters).schedule
        if len(names) != (periods := len(schedule.resets(chosen.epochs)) - 1):
            raise UserError(f"output: {trained.folder} has {len(names) - 1} snapshots; it must have {periods - 1}")
        protocol = protocol_for(chosen.data, chosen.hyper_parameters.get("norm"), chosen.hyper_parameters.get("eps"))
        model = Ensemble([trained.model(name) for name in names]).to(trained.device)
        found = _evaluated(trained, model, protocol.at(attacks=trained.experiment.attacks or protocol.attacks))
        return Found({"members": len(names)}, found.evaluation)

    return probe


def _evaluated(trained: Trained, model: nn.Module, protocol: Protocol) -> Found:
    data = trained.dataset
    found = evaluate(
        model, data.x_test, data.y_test, protocol, num_classes=data.num_classes, seed=trained.experiment.seed,
        progress=False,
    )  # fmt: skip
    return Found(evaluation=found)
