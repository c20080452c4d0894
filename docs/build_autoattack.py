"""Writes the tables of AutoAttack's speed in docs/evaluation.md from the measurements in benchmarks/results.

python benchmarks/autoattack.py --quick --rounds 3 && python docs/build_autoattack.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from marked import rebuilt

from toolkit_ext.io import atomic_write

FILE = Path(__file__).with_name("evaluation.md")
MEASURED = Path(__file__).parents[1] / "benchmarks" / "results"
TABLE, PARTS = "autoattack-quick-resnet18-", "autoattack-parts-quick-resnet18-"


def tables(measured: Path) -> Iterator[str]:
    """Both tables of every machine: the ways to run AutoAttack, and where the time of ours goes."""
    for file in sorted(measured.glob(f"{TABLE}*.csv")):
        parts = file.with_name(file.name.replace(TABLE, PARTS))
        found = pd.read_csv(file)
        about = found.iloc[0]
        yield f"{about['n']} images, {about['model']}, eps {about['eps']:g}; {about['cpu']} ({about['flags']}),"
        yield f"{about['threads']} threads, torch {about['torch']}; medians of {about['rounds']} rounds, in brackets"
        yield f"the smallest and the largest ratio ([CSV](../benchmarks/results/{file.name})):\n"
        yield from ways(found)
        yield f"\n<!-- numbers: benchmarks/results/{file.name} -->\n"
        yield f"Where the time of ours goes ([CSV](../benchmarks/results/{parts.name})):\n"
        yield from shares(pd.read_csv(parts))
        yield f"\n{at_the_limits(found, pd.read_csv(parts))}"
        yield f"\n<!-- numbers: benchmarks/results/{parts.name} -->\n"


def ways(found: pd.DataFrame) -> Iterator[str]:
    """One line for each way to run AutoAttack."""
    yield "| | seconds | times faster | passes | images in them | robust, % | verdicts that differ |"
    yield "| --- |" + " ---: |" * 6
    for row in found.to_dict("records"):
        counts = f"{row['passes']} | {row['images']} | {100 * row['aa_acc']:.1f} | {row['differ']}"
        times = f"{row['times_faster']:.2f}"
        if row["least"] < row["most"]:
            times += f" ({row['least']:.2f} to {row['most']:.2f})"
        yield f"| {row['variant']} | {row['seconds']:.1f} | {times} | {counts} |"


def shares(found: pd.DataFrame) -> Iterator[str]:
    """One line for each of our ways and attacks that had images left."""
    yield "| | attack | images | share of the time | passes | images in a pass | limit, of its time |"
    yield "| --- | --- |" + " ---: |" * 5
    for row in found[found["passes"] > 0].to_dict("records"):
        passes = f"{row['passes']} | {row['images_per_pass']:.1f} | {row['limit_seconds'] / row['seconds']:.0%}"
        yield f"| {row['variant']} | `{row['attack']}` | {row['attempted']} | {row['share']:.0%} | {passes} |"


def at_the_limits(found: pd.DataFrame, parts: pd.DataFrame) -> str:
    """How much faster than pyautoattack each way would be if its passes took all of its time."""
    seconds = found.set_index("variant")["seconds"]["pyautoattack"]
    limits = parts.groupby("variant", sort=False)["limit_seconds"].sum()
    times = " and ".join(f"{variant} has {seconds / limit:.1f} times" for variant, limit in limits.items())
    return f"At these limits {times} the speed of pyautoattack; more needs fewer or cheaper passes."


def text(page: str, measured: Path = MEASURED) -> str:
    """``page`` with both tables made anew."""
    return rebuilt(page, {"autoattack": lambda: tables(measured)})


if __name__ == "__main__":
    atomic_write(FILE, text(FILE.read_text()))
    print(FILE)
