"""Extended runs: more epochs of a finished run, with the same bits as a fresh run of that length, or none."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from toolkit_ext.errors import UserError
from toolkit_ext.experiments.retention import find_run
from toolkit_ext.experiments.settings import Experiment, RunContext
from toolkit_ext.io import atomic_folder
from toolkit_ext.trainers import MethodTrainer

_PARTS = ("best", "last")


def begin_with(experiment: Experiment, trainer: MethodTrainer, context: RunContext, folder: Path) -> bool:
    """Copy the state of the run that ``context`` extends into ``folder``; whether there is one to go on from.

    Nothing depends on the number of epochs if both schedules are constant and every epoch that the shorter run measured
    would be measured anyway. That the other settings are the same is seen when the state is loaded.

    Raises:
        UserError: no such run, one that is longer, or settings with which a fresh run would differ.
    """
    if context.extend is None:
        return False
    source = find_run("extend", context.extend, context.output, _PARTS)
    done = _epochs(source)
    if done >= experiment.epochs:
        raise UserError(f"extend: {source} has {done} epochs already; give more with --epochs")
    loop = trainer.axes.loop
    for option, value in (("lr_schedule", loop.lr_schedule), ("schedule", trainer.axes.names["schedule"])):
        if value != "constant":
            reason = f"{option} {value} depends on the number of epochs"
            raise UserError(f"extend: {reason}, so a fresh run differs from the first epoch; train it without --extend")
    if loop.early_stopping:
        raise UserError("extend: early_stopping may have ended the shorter run; train the longer one without --extend")
    if loop.measure_every and done % loop.measure_every:
        raise UserError(f"extend: epoch {done} was measured as the last one only; a fresh run would not measure it")
    for part in _PARTS:
        if not (folder / part).exists():
            with atomic_folder(folder / part) as copy:
                shutil.copytree(source / part, copy, dirs_exist_ok=True)
    return True


def _epochs(source: Path) -> int:
    try:
        with (source / "log.csv").open(encoding="utf-8", newline="") as file:
            return len(list(csv.DictReader(file)))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"extend: {source / 'log.csv'} cannot be read") from error
