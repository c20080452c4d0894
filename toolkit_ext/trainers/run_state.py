"""The state of a run, from which a later process goes on with the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from toolkit_ext.errors import UserError
from toolkit_ext.trainers.compose import earlier
from toolkit_ext.trainers.fingerprint import check_fingerprint, check_weights
from toolkit_ext.trainers.fsdp import like, load_whole, put_together
from toolkit_ext.trainers.monitor import Alarm, Alarms
from toolkit_ext.trainers.unfinished import UnfinishedEpoch

if TYPE_CHECKING:
    from toolkit_ext.trainers.loop import Run


def state_of(run: Run) -> dict[str, Any]:
    """All that :func:`restore` needs, loadable with ``weights_only=True``; sharded weights are put together."""
    return put_together(
        {
            "fingerprint": dict(run.fingerprint),
            "model": run.model.state_dict(),
            "average": run.average.state_dict() if run.average else None,
            "update": run.update.state_dict(),
            "scheduler": run.scheduler.state_dict(),
            "start": run.start,
            "history": run.history,
            "trace": run.trace.state_dict(),
            "alarms": run.alarms.as_records(),
            "best_score": run.best_score,
            "best_state": run.best_state,
            **({"extensions": extensions} if (extensions := run.extensions.state_dict()) else {}),
            **({"unfinished": run.unfinished.state_dict()} if run.unfinished else {}),
        }
    )


def restore(run: Run, state: Mapping[str, Any]) -> None:
    """Bring ``run`` to where :func:`state_of` found it.

    Raises:
        UserError: the state is of another run; the message names what differs.
    """
    check_fingerprint(earlier() | state["fingerprint"], earlier() | run.fingerprint)
    check_weights(state["model"], run.model.state_dict())
    _load_update(run, state)
    if run.average:
        run.average.load_state_dict(state["average"])
    run.extensions.load_state_dict(state.get("extensions", {}))
    run.unfinished = UnfinishedEpoch(**state["unfinished"]) if "unfinished" in state else None
    run.start = [like(value, now) for value, now in zip(state["start"], run.start, strict=True)]
    run.history = list(state["history"])
    run.trace.load_state_dict(state["trace"])
    run.alarms = Alarms([Alarm(**alarm) for alarm in state["alarms"]])
    run.best_score = tuple(state["best_score"])
    run.best_state = dict(state["best_state"])


def _load_update(run: Run, state: Mapping[str, Any]) -> None:
    ours, saved = run.scheduler.state_dict(), state["scheduler"]
    try:  # an older state does not say what optimiser and scheduler it has
        if ("members" in ours) != ("members" in saved):
            raise ValueError("one of them is the caller's, the other a named schedule")
        load_whole(run.model, run.update, state)
        run.scheduler.load_state_dict(saved)
    except (KeyError, ValueError) as error:
        raise UserError(f"resume: the checkpoint has another optimiser or scheduler ({error})") from error
