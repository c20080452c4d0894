"""The programme: what is done is not run again, and the driver pauses, stops, shares and goes on."""

from __future__ import annotations

import runpy
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from filelock import FileLock

from toolkit_ext.claims import Arm, AtLeast, Claim, Group
from toolkit_ext.claims.claim import load_groups
from toolkit_ext.claims.runs import TUNING_SEED, tuning_of
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.recipe import with_hyper_parameters
from toolkit_ext.experiments.settings import Experiment, RunContext
from toolkit_ext.programme.costs import Costs, training_passes
from toolkit_ext.programme.driver import Driver, TimeUpError, deadline
from toolkit_ext.programme.plan import DONE, LEFT, UNDER_WAY, Entry, Progress, Unit, units
from toolkit_ext.results import Record

Make = Callable[..., Record]
MakeExperiment = Callable[..., Experiment]
RECIPES = Path(__file__).parents[3] / "recipes"
# Stands for a recipe: notes its arguments; the arm "bad" fails.
SCRIPT = "import sys\nopen('notes', 'a').write(' '.join(sys.argv[1:5]) + '\\n')\nsys.exit('bad' in sys.argv)\n"


def unit(seed: int, arm: str = "pgd", **given: Any) -> Unit:
    return Unit(Entry("a", "example", (seed,), "anything"), seed, (Arm(arm, **given),))


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(SCRIPT)
    return Driver(tmp_path, RunContext(output=tmp_path / "outputs"), niceness=0, every=0.01)


def test_units_run_in_order_and_a_failure_stops_nothing(driver: Driver, tmp_path: Path) -> None:
    said: list[str] = []
    todo = [unit(0), unit(1, "bad"), unit(2), unit(3)]
    assert driver.run(todo, lambda each: each.seed == 2, said.append) == ["a-example-s1"]
    ran = (tmp_path / "notes").read_text().splitlines()
    assert ran == [f"--scale medium --seeds {seed}" for seed in (0, 1, 3)]
    assert "a-example-s2: done already" in said
    assert "a-example-s1: failed with exit code 1, see its log" in said


def test_what_another_driver_runs_is_left_to_it(driver: Driver, tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "outputs" / "programme"
    folder.mkdir(parents=True)
    with FileLock(folder / "a-example-s0.lock"):
        assert driver.run([unit(0), unit(1)], lambda _: False, said.append) == []
    assert said[0] == "a-example-s0: another driver runs it"
    assert (tmp_path / "notes").read_text() == "--scale medium --seeds 1\n"


def test_nothing_starts_after_the_deadline_or_in_a_pause(driver: Driver, tmp_path: Path) -> None:
    late = replace(driver, deadline=datetime.now())
    with pytest.raises(TimeUpError):
        late.run([unit(0)], lambda _: False, print)
    (tmp_path / "pause").touch()
    paused = replace(driver, pause_file=tmp_path / "pause", deadline=datetime.now() + timedelta(seconds=0.1))
    with pytest.raises(TimeUpError):
        paused.run([unit(0)], lambda _: False, print)
    assert not (tmp_path / "notes").exists()


def test_the_deadline_ends_what_runs(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text("import time\ntime.sleep(600)\n")
    soon = replace(driver, deadline=datetime.now() + timedelta(seconds=0.2))
    with pytest.raises(TimeUpError):
        soon.run([unit(0)], lambda _: False, print)
    with FileLock(tmp_path / "outputs" / "programme" / "a-example-s0.lock", timeout=0):
        pass  # free again


class Process:
    """Stands for a running process: ends after two looks."""

    def __init__(self) -> None:
        self.signals: list[int] = []

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


class Pause:
    """Stands for a file that exists for three looks."""

    looks = 0

    def exists(self) -> bool:
        self.looks += 1
        return self.looks <= 3


def test_a_pause_stops_the_process_once_and_continues_it(driver: Driver) -> None:
    process, pausing = Process(), replace(driver, pause_file=cast(Path, Pause()), every=0.0)
    pausing._wait_or_stop(cast(Any, process))
    assert process.signals == [signal.SIGSTOP, signal.SIGCONT]
    pausing._wait_or_stop(cast(Any, process))
    assert len(process.signals) == 2


def test_the_deadline_is_the_earlier_of_both() -> None:
    now = datetime(2026, 11, 28, 9, 0)
    assert deadline(None, None, now) is None
    assert deadline("10:30", None, now) == datetime(2026, 11, 28, 10, 30)
    assert deadline("08:30", 2.0, now) == datetime(2026, 11, 28, 11, 0)
    assert deadline("08:30", 40.0, now) == datetime(2026, 11, 29, 8, 30)
    for until, hours, option in (("25:00", None, "until"), ("soon", None, "until"), (None, 0.0, "hours")):
        with pytest.raises(UserError, match=f"^{option}: "):
            deadline(until, hours, now)


def progress(tmp_path: Path, *records: Record) -> Progress:
    return Progress(records, tmp_path, Costs(records, {("lenet", 8, "fp32"): 1e-3}))


def test_a_run_is_done_with_its_probes_and_under_way_with_a_checkpoint(
    experiment: MakeExperiment, recorded: Make, tmp_path: Path
) -> None:
    ours = experiment(n_train=1000, n_test=100)
    each = unit(1, medium=ours)
    (left,) = progress(tmp_path).of(each)
    passes = training_passes(ours) + 100 * 2501  # clean and AutoAttack
    assert (left.state, left.run_id) == (LEFT, replace(ours, seed=1).run_id)
    assert left.seconds == pytest.approx(1e-3 * (passes + 100 * 125))  # and APGD-CE at the last epoch
    (tmp_path / left.run_id / "last").mkdir(parents=True)
    assert progress(tmp_path).of(each)[0].state == UNDER_WAY
    run = recorded(ours, 1)
    run["n_examples"] = 100
    run["data"]["train"], run["data"]["validation"] = 900, 100
    last: Any = {**run, "run_id": f"{run['run_id']}-last", "details": {"probe": {"name": "last", "of": run["run_id"]}}}
    (without,) = progress(tmp_path, run).of(each)
    assert (without.state, progress(tmp_path, run).is_done(each)) == (UNDER_WAY, False)
    assert 0 < without.seconds < left.seconds
    assert progress(tmp_path, run, last).of(each)[0].state == DONE
    assert progress(tmp_path, run, last).is_done(each)
    other = progress(tmp_path, run, last).of(unit(2, medium=ours))[0]
    assert other.seconds == pytest.approx(12.5 + 3.25 + 1e-3 * 100 * 125)  # as the recorded run, and its probe


def test_candidates_are_runs_of_their_own_and_the_chosen_one_is_looked_for(
    experiment: MakeExperiment, recorded: Make, tmp_path: Path
) -> None:
    ours, candidates = experiment(), ({"lr": 0.1}, {"lr": 0.2})
    each = unit(0, medium=ours, candidates=candidates)
    assert [work.state for work in progress(tmp_path).of(each)] == [LEFT] * 3
    clean = {"clean_acc": 0.9, "union_acc": 0.9}
    tuned = [recorded(tuning_of(ours, candidate), TUNING_SEED, clean) for candidate in candidates]
    assert [work.state for work in progress(tmp_path, *tuned).of(each)] == [DONE, DONE, LEFT]
    chosen = recorded(with_hyper_parameters(ours, candidates[0]), 0)
    probe = {"probe": {"name": "last", "of": chosen["run_id"]}}
    last: Any = {**chosen, "run_id": f"{chosen['run_id']}-last", "details": probe}
    assert [work.state for work in progress(tmp_path, *tuned, chosen, last).of(each)] == [DONE] * 3


def test_an_entry_takes_the_arms_that_have_the_scale(experiment: MakeExperiment) -> None:
    arms = (Arm("one", experiment(), medium=experiment(epochs=3)), Arm("two", medium=experiment()), Arm("small"))
    groups = {"g": Group(1, "g", "?", "A paper", arms, (Claim("c", "?", AtLeast(("one", "aa_acc"), 0.0)),))}
    found = units([Entry("a", "g", range(2), "all"), Entry("b", "g", (7,), "one", ("two",))], groups)
    assert [(u.name, [arm.name for arm in u.arms]) for u in found] == [
        ("a-g-s0", ["one", "two"]), ("a-g-s1", ["one", "two"]), ("b-g-s7", ["two"]),
    ]  # fmt: skip
    with pytest.raises(UserError, match="arm: 'tow'"):
        units([Entry("a", "g", (0,), "one", ("tow",))], groups)


def test_the_programme_has_every_arm_of_the_medium_scale() -> None:
    listed = runpy.run_path(str(RECIPES / "programme.py"), run_name="recipe")["PROGRAMME"]
    groups = {group.name: group for group in load_groups(RECIPES / "claims")}
    found = {(each.entry.group, arm.name) for each in units(listed, groups) for arm in each.arms}
    assert found == {(group.name, arm.name) for group in groups.values() for arm in group.arms if arm.medium}
    letters = [entry.letter for entry in listed]
    assert letters == sorted(letters)
    names = [each.name for each in units(listed, groups)]
    assert len(set(names)) == len(names)  # locks and logs have them


def test_the_list_shows_the_hours_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["programme", "--list", "--only", "h", "--results", str(tmp_path)])
    runpy.run_path(str(RECIPES / "programme.py"), run_name="__main__")
    shown = capsys.readouterr()
    assert "speed" in shown.out
    assert shown.err.startswith("cut: ")
