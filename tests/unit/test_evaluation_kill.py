"""Ten random kills of one evaluation: the record is the same, and no finished batch is attacked twice."""

from __future__ import annotations

import collections
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit_ext.evaluation import Budget, Evaluation, Protocol, evaluate
from toolkit_ext.evaluation.running.runner import Job, Runner
from toolkit_ext.evaluation.suite import precision

KILLS = 10
PROTOCOL = Protocol("test", "Linf", 0.06, attacks=("clean", "aa", "fgsm", "pgd20", "square", "apgd_dlr"))


class KilledError(Exception):
    """Stands for whatever ends a process."""


class Fuse:
    """Ends the process at one of the model's passes; a copy of the model shares it."""

    def __init__(self) -> None:
        self.passes, self.last = 0, -1

    def __deepcopy__(self, memo: dict[int, Any]) -> Fuse:
        return self

    def burn(self) -> None:
        if self.passes == self.last:
            self.blow()
        self.passes += 1

    def blow(self) -> None:
        raise KilledError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))
        self.fuse = Fuse()

    def forward(self, x: Tensor) -> Tensor:
        self.fuse.burn()
        logits: Tensor = self.body(x)
        return logits


def case() -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(0)
    model, x = Net(), torch.rand(14, 1, 8, 8)
    y = model.body(x).argmax(dim=1)
    y[0] = (y[0] + 1) % 4
    return model, x, y


def run(wanted: Any, model: nn.Module, x: Tensor, y: Tensor, folder: Path | None) -> Evaluation:
    options: dict[str, Any] = {"batch_size": 4, "budget": Budget(5, 30), "progress": False, "precision": wanted}
    return evaluate(model, x, y, PROTOCOL, state_dir=folder, **options)


def facts(evaluation: Evaluation) -> tuple[Any, ...]:
    """The record but for the wall times, and the adversarial examples."""
    record = evaluation.to_record()
    for row in record["details"]["attacks"].values():
        del row["seconds"]
    examples = evaluation.examples
    return record, examples.attacks, examples.indices.tolist(), examples.predictions.tolist(), examples.inputs.tolist()


@pytest.mark.parametrize("wanted", ["fp32", "bf16-verified"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_ten_random_kills(seed: int, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "half_ratio", lambda full, half, x: 0.5)
    model, x, y = case()
    whole = facts(run(wanted, model, x, y, None))
    total, draw = model.fuse.passes, random.Random(seed)
    finished: collections.Counter[tuple[str, tuple[int, ...]]] = collections.Counter()
    attack = Runner._attack

    def counted(self: Runner, job: Job, indices: Tensor) -> Any:
        found = attack(self, job, indices)
        finished[job.name, tuple(indices.tolist())] += 1
        return found

    monkeypatch.setattr(Runner, "_attack", counted)
    killed = 0
    while killed < KILLS:
        model.fuse.passes, model.fuse.last = 0, draw.randrange(total // 8)
        with pytest.raises(KilledError):
            run(wanted, model, x, y, tmp_path)
        killed += 1
    model.fuse.last = -1
    assert facts(run(wanted, model, x, y, tmp_path)) == whole
    assert len(finished) > 20
    assert set(finished.values()) == {1}


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_evaluation_kill as test
from pathlib import Path

model, x, y = test.case()
model.fuse.last = int(sys.argv[3])
model.fuse.blow = lambda: os.kill(os.getpid(), signal.SIGKILL)
test.run("fp32", model, x, y, Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_ten_random_sigkills(tmp_path: Path) -> None:
    """Real processes: nothing of what the test above relies on in memory is left."""
    model, x, y = case()
    whole, total, draw = facts(run("fp32", model, x, y, None)), model.fuse.passes, random.Random(0)
    here = Path(__file__)
    environment = os.environ | {"PYTHONPATH": str(here.parents[2]), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for _ in range(KILLS):
        arguments = [str(here.parent), str(tmp_path), str(draw.randrange(total // 8))]
        done = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, check=False)
        assert done.returncode == -signal.SIGKILL
    assert facts(run("fp32", model, x, y, tmp_path)) == whole
