"""An evaluation that is killed goes on with the same result, and attacks no finished batch again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Budget, Evaluation, Protocol, evaluate
from toolkit_ext.evaluation.running.state import State, open_state

SHORT = Budget(n_iter=5, n_queries=30)
ATTACKS = ("clean", "aa", "fgsm", "pgd20", "pgd_l2", "square")
PROTOCOL = Protocol("test", "Linf", 0.06, attacks=ATTACKS, l2_eps=0.4)


pytestmark = pytest.mark.usefixtures("rechecks_do_not_count")


class StopError(KeyboardInterrupt):
    """Stands for whatever ends a process."""


class Counting(nn.Module):
    """A classifier that counts its forward passes and stops in the one numbered ``stop``."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.last = nn.Linear(36, 4)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), self.last)
        self.noise, self.calls, self.stop = noise, 0, -1

    def forward(self, x: Tensor) -> Tensor:
        if self.calls == self.stop:
            raise StopError
        self.calls += 1
        logits: Tensor = self.body(x + self.noise * torch.randn_like(x) if self.noise else x)
        return logits


def case(noise: float = 0.0) -> tuple[Counting, Tensor, Tensor]:
    torch.manual_seed(0)
    model, x = Counting(noise), torch.rand(10, 1, 8, 8)
    y = model.body(x).argmax(dim=1)
    y[0] = (y[0] + 1) % 4
    return model, x, y


def run(model: nn.Module, x: Tensor, y: Tensor, folder: Path | None, **options: Any) -> Evaluation:
    defaults: dict[str, Any] = {"batch_size": 4, "budget": SHORT, "progress": False, "protocol": PROTOCOL}
    return evaluate(model, x, y, state_dir=folder, **(defaults | options))


@cache
def uninterrupted() -> tuple[Evaluation, int]:
    """The evaluation of :func:`case` that was never stopped, and its passes; its examples are compared, not changed."""
    model, x, y = case()
    return run(model, x, y, None), model.calls


def facts(evaluation: Evaluation) -> dict[str, Any]:
    """The record, but for the wall times."""
    record = evaluation.to_record()
    for row in record["details"]["attacks"].values():
        del row["seconds"]
    return record


def assert_same(one: Evaluation, other: Evaluation) -> None:
    assert facts(one) == facts(other)
    for name in ("inputs", "indices", "labels", "predictions"):
        assert torch.equal(getattr(one.examples, name), getattr(other.examples, name))
    assert one.examples.attacks == other.examples.attacks


@pytest.mark.parametrize("part", range(10))
def test_stopped_at_any_point(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = case()
    (whole, total), finished = uninterrupted(), [0]

    save = State.save

    def noted(self: State, *batch: Any) -> None:
        save(self, *batch)
        finished.append(model.calls)

    monkeypatch.setattr(State, "save", noted)
    model.calls, model.stop = 0, (total - 1) * part // 9
    with pytest.raises(StopError):
        run(model, x, y, tmp_path)
    model.calls, model.stop = 0, -1
    after = finished[-1]
    resumed = run(model, x, y, tmp_path)

    assert_same(resumed, whole)
    again = 1 if after else 0  # the look at one image, which comes before anything is taken up
    assert model.calls == total - after + again

    model.calls = 0
    assert_same(run(model, x, y, tmp_path), whole)
    assert model.calls == 1


@pytest.mark.parametrize("version", ["standard", "rand"])
def test_a_randomised_model_draws_the_same_numbers_after_a_stop(version: str, tmp_path: Path) -> None:
    model, x, y = case(noise=0.02)
    protocol = PROTOCOL.at(version=version)
    whole = run(model, x, y, None, protocol=protocol)
    total = model.calls
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        model.calls, model.stop = 0, int(total * share)
        try:
            run(model, x, y, tmp_path, protocol=protocol)
        except StopError:
            continue
    model.stop = -1
    assert_same(run(model, x, y, tmp_path, protocol=protocol), whole)


KILLED = """
import os, signal, sys
import torch
sys.path.insert(0, sys.argv[1])
from test_evaluation_resume import case, run
from toolkit_ext import io
from pathlib import Path

model, x, y = case()
if sys.argv[3] == "attack":
    forward = model.forward
    def counted(inputs):
        if model.calls == 150:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(inputs)
    model.forward = counted
else:
    replace, left = os.replace, [4]
    def replaced(source, target):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
    io.os.replace = replaced
run(model, x, y, Path(sys.argv[2]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("moment", [pytest.param("attack", marks=pytest.mark.slow), "write"])
def test_kill_9(moment: str, tmp_path: Path) -> None:
    here = Path(__file__)
    environment = os.environ | {"PYTHONPATH": str(here.parents[2]), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILLED, str(here.parent), str(tmp_path), moment]
    killed = subprocess.run(command, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    done = len(list(tmp_path.glob("batch-*.safetensors")))
    assert done > 1

    model, x, y = case()
    whole, total = uninterrupted()
    assert_same(run(model, x, y, tmp_path), whole)
    assert model.calls < total
    assert len(list(tmp_path.glob("batch-*.safetensors"))) > done


def test_further_attacks_are_added_to_what_is_there(tmp_path: Path) -> None:
    model, x, y = case()
    whole, total = uninterrupted()
    run(model, x, y, tmp_path, protocol=PROTOCOL.at(attacks=("fgsm", "aa")))
    first, model.calls = model.calls, 0
    assert_same(run(model, x, y, tmp_path), whole)
    assert model.calls == total - first + 1  # and the look at one image


def test_examples_of_a_column_are_made_again_where_autoattack_had_others(tmp_path: Path) -> None:
    """With AutoAttack, FGSM's examples are not kept where AutoAttack broke the image; alone, they are needed."""
    model, x, y = case()
    only = PROTOCOL.at(attacks=("fgsm",))
    alone = run(model, x, y, None, protocol=only)
    run(model, x, y, tmp_path, protocol=PROTOCOL.at(attacks=("fgsm", "aa")))
    assert_same(run(model, x, y, tmp_path, protocol=only), alone)
    assert "fgsm" in alone.examples.attacks


def test_a_damaged_batch_is_made_again(tmp_path: Path) -> None:
    model, x, y = case()
    whole = run(model, x, y, tmp_path)
    batch = tmp_path / "batch-aa+apgd-ce-00000.safetensors"
    batch.write_bytes(batch.read_bytes()[:100])
    assert_same(run(model, x, y, tmp_path), whole)


def changed(what: str) -> dict[str, Any]:
    """Arguments of an evaluation that differs in ``what``."""
    model, x, y = case()
    arguments: dict[str, Any] = {"model": model, "x": x, "y": y}
    if what == "model":
        with torch.no_grad():
            model.last.bias[0] += 1e-6
    elif what == "structure":
        model.body[1] = nn.LeakyReLU()
    elif what == "x":
        x[3, 0, 2, 2] = 0.5
    elif what == "y":
        y[5] = (y[5] + 1) % 4
    else:
        options: dict[str, dict[str, Any]] = {
            "seed": {"seed": 1},
            "batch_size": {"batch_size": 5},
            "eps": {"protocol": PROTOCOL.at("0.05")},
            "n_queries": {"budget": Budget(5, 31)},
        }
        arguments |= options[what]
    return arguments


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("model", "model"),
        ("structure", "model"),
        ("x", "data"),
        ("y", "data"),
        ("seed", "seed (0 there, 1 here)"),
        ("batch_size", "batch_size (4 there, 5 here)"),
        ("eps", "eps (0.06 there, 0.05 here)"),
        ("n_queries", "n_queries (30 there, 31 here)"),
    ],
)
def test_state_of_another_evaluation_is_refused(what: str, named: str, tmp_path: Path) -> None:
    model, x, y = case()
    protocol = PROTOCOL.at(attacks=("clean",))
    run(model, x, y, tmp_path, protocol=protocol)
    arguments: dict[str, Any] = {"protocol": protocol, "folder": tmp_path, **changed(what)}
    with pytest.raises(UserError) as error:
        run(**arguments)
    assert f"differing in {named};" in str(error.value)
    assert "\n" not in str(error.value)
    run(**arguments, fresh=True)


def test_another_version_of_a_library_is_refused(tmp_path: Path) -> None:
    model, x, y = case()
    run(model, x, y, tmp_path, protocol=PROTOCOL.at(attacks=("clean",)))
    meta = json.loads((tmp_path / "meta.json").read_text())
    meta["versions"]["torch"] = "1.0"
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"differing in torch \(1.0 there, "):
        run(model, x, y, tmp_path)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_meta_that_is_gone_or_damaged_is_refused(content: str | None, tmp_path: Path) -> None:
    model, x, y = case()
    run(model, x, y, tmp_path, protocol=PROTOCOL.at(attacks=("clean",)))
    (tmp_path / "meta.json").unlink()
    if content is not None:
        (tmp_path / "meta.json").write_text(content)
    with pytest.raises(UserError, match=r"meta\.json"):
        run(model, x, y, tmp_path)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    model, x, y = case()
    with open_state(tmp_path, {}), pytest.raises(UserError, match="in use by another evaluation"):
        run(model, x, y, tmp_path)


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    model, x, y = case()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run(model, x, y, tmp_path / "file" / "state")
