"""A record whose figures contradict each other, or that was changed, is named and never used."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from toolkit_ext.errors import UserError
from toolkit_ext.experiments.experiment import run
from toolkit_ext.experiments.settings import Experiment, RunContext
from toolkit_ext.experiments.sweep import state_of
from toolkit_ext.results import Record, RecordWarning, read_record, read_records, rebuild, write_record
from toolkit_ext.results.records.consistency import check_consistent, wilson

Make = Callable[..., Record]
ROOT = Path(__file__).parents[3]
N = 20
BITS = {
    "clean": np.arange(N) < 18,
    "aa/apgd-ce": np.arange(N) < 12,
    "aa/apgd-t": np.arange(N) < 10,
    "aa": np.arange(N) < 10,
    "pgd20": (np.arange(N) < 14) & (np.arange(N) != 3),
    "union": (np.arange(N) < 10) & (np.arange(N) != 3),
}


def _row(name: str) -> dict[str, Any]:
    left = int(BITS[name].sum())
    return {"attempted": 20 if name == "clean" else 18, "broken": 2, "seconds": 0.1, "accuracy": left / N}


@pytest.fixture
def sound(make: Make) -> Record:
    """A record as an evaluation leaves it."""
    accuracies = {f"{name}_acc": float(bits.mean()) for name, bits in BITS.items() if "/" not in name}
    details = {
        "robust": {name: np.packbits(bits).tobytes().hex() for name, bits in BITS.items()},
        "attacks": {name: _row(name) for name in ATTACKS},
    }
    return check_consistent(make(n=N, details=details, **accuracies))


def _changed(record: Record, path: str, value: Any) -> Record:
    changed: Any = copy.deepcopy(record)
    *parents, last = path.split(":")
    target = changed
    for parent in parents:
        target = target[parent]
    target[last] = value(target[last])
    return changed  # type: ignore[no-any-return]


METRICS = [f"metrics:{name}_acc" for name in BITS if "/" not in name]
INTERVALS = [f"intervals:{name}_acc" for name in BITS if "/" not in name]
ATTACKS = [name for name in BITS if name != "union"]
CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    **{f"{path} up": (path, lambda value: value + 1 / N) for path in METRICS},
    **{f"{path} down": (path, lambda value: value - 1 / N) for path in METRICS},
    **{f"{path} a little": (path, lambda value: value + 1e-4) for path in METRICS},
    **{f"{path} low": (path, lambda ends: [ends[0] + 1e-3, ends[1]]) for path in INTERVALS},
    **{f"{path} high": (path, lambda ends: [ends[0], ends[1] - 1e-3]) for path in INTERVALS},
    **{f"accuracy of {name}": (f"details:attacks:{name}:accuracy", lambda value: value + 1 / N) for name in ATTACKS},
    "more broken than attempted": ("details:attacks:aa:broken", lambda _: 19),
    "more attempted than there are": ("details:attacks:clean:attempted", lambda _: 21),
    "text as a count": ("details:attacks:aa:broken", lambda _: "2"),
    "images dropped": ("n_examples", lambda _: 19),
    "images added": ("n_examples", lambda _: 25),
    "bits of other images": ("details:robust:aa", lambda text: text + "00"),
    "bits that are no number": ("details:robust:aa", lambda _: "zz"),
    "bits that are no text": ("details:robust:aa", lambda _: 7),
    "bits after the last image": ("details:robust:union", lambda text: text[:-1] + "1"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_figures_that_contradict_each_other_are_named(case: str, sound: Record, tmp_path: Path) -> None:
    changed = _changed(sound, *CHANGES[case])
    with pytest.raises(UserError, match=r"^it contradicts itself: (metrics|intervals|details)\.\S") as caught:
        check_consistent(changed)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UserError, match=r"contradicts itself|record field details"):
        write_record(changed, tmp_path)
    (tmp_path / "pgd-0.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match=r"^record .*pgd-0.json: is not a sound run record: .*; move the file away"):
        read_record(tmp_path / "pgd-0.json")


def test_every_bit_of_every_attack_counts(sound: Record) -> None:
    for name, text in sound["details"]["robust"].items():
        for place in range(4 * len(text)):
            flipped = f"{int(text, 16) ^ (1 << place):0{len(text)}x}"
            with pytest.raises(UserError, match=r"details\.robust"):
                check_consistent(_changed(sound, f"details:robust:{name}", lambda _, flipped=flipped: flipped))


def test_metrics_alone_contradict_each_other(make: Make) -> None:
    """As in an evaluation whose results for each image are gone, with intervals that fit."""
    for upper, lower in (("clean", "aa"), ("clean", "pgd20"), ("aa", "union"), ("pgd20", "union")):
        told = rf"metrics\.{lower}_acc 0\.5 is above metrics\.{upper}_acc 0\.4"
        with pytest.raises(UserError, match=told):
            check_consistent(make(n=20, **{f"{upper}_acc": 0.4, f"{lower}_acc": 0.5}))


def test_the_interval_is_that_of_the_evaluation() -> None:
    for n in (1, 7, 500, 10_000):
        for correct in {0, 1, n // 3, n}:
            assert wilson(correct, n) == pytest.approx(proportion_confint(correct, n, method="wilson"), abs=1e-12)


def test_all_committed_records_are_sound() -> None:
    runs = ROOT / "results" / "runs"
    assert len(read_records(runs, strict=True)) == len(list(runs.glob("*.json"))) > 500


def test_an_edited_record_is_named_and_in_no_table(
    sound: Record, make: Make, toolkit: Callable[..., Any], tmp_path: Path
) -> None:
    honest = make("pgd", seed=1, n=N, tables=["quickstart"], **sound["metrics"])
    write_record(honest, tmp_path / "results" / "runs")
    edited = _changed(sound | {"tables": ["quickstart"]}, "metrics:union_acc", lambda _: 0.85)  # type: ignore[arg-type]
    (tmp_path / "results" / "runs" / "pgd-0.json").write_text(json.dumps(edited))
    with pytest.warns(RecordWarning, match=r"^pgd-0\.json in .* is left out: it contradicts itself: metrics.union_acc"):
        written = rebuild(tmp_path / "results")
    for path in written:
        assert "pgd-0" not in path.read_text()
        assert len(path.read_text().splitlines()) == 2
    for words in (["table"], ["plot", "--out", "a.svg"], ["report", "--out", "a.html"]):
        outcome = toolkit(*words)
        assert outcome.code == 0
        assert outcome.err.count("pgd-0.json in") == 1
        assert "contradicts itself" in outcome.err
    assert "85" not in toolkit("table").out
    assert "pgd-0" not in Path("a.html").read_text()
    outcome = toolkit("table", "--robustbench", "pgd-0", "--out", "a.json")
    assert outcome.code == 2
    assert "pgd-0.json" in outcome.err
    assert not Path("a.json").exists()


def test_any_damage_to_a_record_is_told_or_means_nothing(sound: Record, tmp_path: Path, damage: Any) -> None:
    """To all values, not those alone that can be compared: eps, seeds, names, times."""
    path = write_record(sound, tmp_path)
    assert read_record(path) == sound

    def as_written() -> bool:
        """With one character of the checksum's own name changed, the record has a detail more."""
        found = read_record(path)
        return {**found, "details": {name: found["details"][name] for name in sound["details"]}} == sound

    told = damage(path, as_written, 600)
    assert told > 550


def context_in(folder: Path) -> RunContext:
    return RunContext(results=folder / "results", output=folder / "outputs", progress=False)


def put_in_the_way(experiment: Experiment, context: RunContext, content: bytes | None) -> None:
    """A file with ``content`` where the record of ``experiment`` goes; without content, a folder."""
    path = context.results / "runs" / f"{experiment.run_id}.json"
    path.parent.mkdir(parents=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"schema": 1}', None])
def test_an_unreadable_record_in_the_way_of_a_run_is_one_line_and_not_done(
    content: bytes | None, tmp_path: Path
) -> None:
    experiment, context = Experiment("pgd"), context_in(tmp_path)
    assert state_of(experiment, context) == "new"
    put_in_the_way(experiment, context, content)
    assert state_of(experiment, context) == "unreadable"
    with pytest.raises(UserError, match=r"^record .*: is not a sound run record: \S.*; move the file away") as caught:
        run(experiment, context)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


def test_a_sweep_counts_an_unreadable_record_as_not_done(toolkit: Callable[..., Any], tmp_path: Path) -> None:
    put_in_the_way(Experiment("pgd"), context_in(tmp_path), b"{")
    outcome = toolkit("sweep", "--methods", "pgd", "--seeds", "0", "--dry-run")
    assert "1 runs: 0 recorded, 0 stopped, 0 new, 1 with an unreadable record" in outcome.err
    assert outcome.out.startswith("unreadable")
    outcome = toolkit("sweep", "--methods", "pgd", "--seeds", "0", "--workers", "0")
    assert outcome.code == 1
    assert outcome.err.count("is not a sound run record") == 2  # in its turn, and at the end
