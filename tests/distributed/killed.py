"""Training of which rank 1 kills itself in the second epoch of the first attempt; torchrun starts it again."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from cases import QUICK, fitted, weights_of  # type: ignore[import-not-found]

from toolkit_ext.cli import guarded
from toolkit_ext.ranks import local_rank, restarted
from toolkit_ext.trainers import attack_runner as module

FOLDER = Path(sys.argv[1])
calls = 0
craft = vars(module)["generate"]


def dying(*args: Any, **kwargs: Any) -> Any:
    """The attack; its fifth call is the last of this process. Nothing is measured, so every call is a training step."""
    global calls
    calls += 1
    if calls == 5 and local_rank() == 1 and not restarted():
        os.kill(os.getpid(), signal.SIGKILL)
    return craft(*args, **kwargs)


def main(standalone_mode: bool = False) -> None:
    """Train for three epochs."""
    trainer = fitted("pgd", QUICK, nb_epochs=3, run_dir=FOLDER / "run")
    if local_rank() == 0:
        torch.save({"weights": weights_of(trainer), "attacks": calls}, FOLDER / "found.pt")


class Command:
    """What the command line runs, for its way with errors."""

    main = staticmethod(main)


vars(module)["generate"] = dying
guarded(Command())  # type: ignore[arg-type]
