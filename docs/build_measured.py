"""Writes the tables of docs/measured.md: every method on digits, and fast adversarial training on CIFAR-10.

python recipes/digits_methods.py && python recipes/cifar_fast.py && python docs/build_measured.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import pandas as pd
from marked import rebuilt

from toolkit_ext.io import atomic_write
from toolkit_ext.results.inference.compare import compare
from toolkit_ext.results.inference.crossed import Estimate, contrast
from toolkit_ext.results.inference.multiplicity import dunnett
from toolkit_ext.results.inference.samples import sample_of
from toolkit_ext.results.records.record import read_records
from toolkit_ext.results.records.schema import Record
from toolkit_ext.results.tables.aggregate import reported

FILE = Path(__file__).with_name("measured.md")
RESULTS = Path(__file__).parents[1] / "results"

Cell = Callable[[list[Record]], str]
# The last metric ranks, and has an interval.
DIGITS = {"clean_acc": "clean", "fgsm_acc": "FGSM", "pgd20_acc": "PGD-20", "mim_acc": "MIM", "aa_acc": "AutoAttack"}
FAST = {"clean_acc": "clean", "pgd20_acc": "PGD-20", "apgd_ce_t_acc": "APGD"}


def runs(records: Sequence[Record], table: str) -> dict[str, list[Record]]:
    """Those of ``records`` that ``table`` shows, by method."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if table in record["tables"]:
            found.setdefault(record["method"], []).append(record)
    return found


def interval(own: list[Record], metric: str) -> str:
    """The 90% interval of the mean accuracy ``metric`` of ``own``, over seeds and images."""
    sample = sample_of({run["seed"]: run for run in own}, metric, lambda run, name: run["metrics"].get(name))
    low, high = contrast((1.0,), [sample]).interval()
    return f"{low:.1f} to {high:.1f}"


def differences(of: Mapping[str, list[Record]], reference: str, metric: str) -> dict[str, Estimate]:
    """The mean of ``metric`` of each other method minus that of the ``reference``."""
    return {
        method: next(one.estimate for one in compare(of[reference], own).differences if one.metric == metric)
        for method, own in of.items()
        if method != reference
    }


def against(of: Mapping[str, list[Record]], reference: str, metric: str) -> dict[str, Cell]:
    """The columns that compare with the ``reference``: the difference with its 90% interval, and Dunnett's p-value."""
    found = differences(of, reference, metric)
    tested = dunnett([each.p_above(0.0) for each in found.values()], [each.freedom for each in found.values()])
    p_values = dict(zip(found, tested, strict=True))

    def difference(own: list[Record]) -> str:
        if (each := found.get(own[0]["method"])) is None:
            return ""
        low, high = each.interval()
        return f"{each.value:+.1f} ({low:+.1f} to {high:+.1f})"

    def p_value(own: list[Record]) -> str:
        return f"{p_values[method]:.2g}" if (method := own[0]["method"]) in p_values else ""

    return {f"minus `{reference}`": difference, "p": p_value}


def methods(
    table: Path, of: Mapping[str, list[Record]], metrics: Mapping[str, str], more: Mapping[str, Cell]
) -> Iterator[str]:
    """The ``table``, best first: means of ``metrics``, the interval of the last, and what ``more`` tells of runs."""
    shown, ranking = pd.read_csv(table, dtype=str), list(metrics)[-1]
    order = shown[ranking].str.partition("(")[0].astype(float).sort_values(ascending=False, kind="stable").index
    yield f"| method | {' | '.join([*metrics.values(), '90% interval', *more])} |"
    yield "| --- " * (len(metrics) + len(more) + 2) + "|"
    for _, row in shown.loc[order].iterrows():
        own = of[row["method"]]
        cells = [*row[list(metrics)], interval(own, ranking), *(cell(own) for cell in more.values())]
        yield f"| `{row['method']}` | {' | '.join(cells)} |"


def epochs(own: list[Record]) -> str:
    """Epochs of each run."""
    return str(own[0]["hyper_parameters"]["epochs"])


def minutes(own: list[Record]) -> str:
    """Minutes of training of the fastest run: one that was interrupted has its pauses in it."""
    return f"{min(run['times']['train_s'] for run in own) / 60:.1f}"


def memory(own: list[Record]) -> str:
    """Peak memory of the process in MB, the median of the runs."""
    return f"{median(run['memory']['host_mb'] for run in own):.0f}"


def overfitted(own: list[Record]) -> str:
    """How many runs gave the alarm of catastrophic overfitting."""
    alarmed = sum(any(alarm["kind"] == "catastrophic_overfitting" for alarm in run["alarms"]) for run in own)
    return f"{alarmed} of {len(own)}"


def text(page: str, results: Path = RESULTS) -> str:
    """``page`` with its tables made anew."""
    records = reported(read_records(results / "runs"))
    digits, fast = runs(records, "digits_methods"), runs(records, "cifar_fast")
    more: dict[str, Cell] = {
        **against(fast, "pgd", "apgd_ce_t_acc"),
        "epochs": epochs,
        "minutes": minutes,
        "memory (MB)": memory,
        "overfitted": overfitted,
    }
    parts = {
        "methods": partial(methods, results / "tables" / "digits_methods.csv", digits, DIGITS, {}),
        "fast": partial(methods, results / "tables" / "cifar_fast.csv", fast, FAST, more),
    }
    return rebuilt(page, parts)


if __name__ == "__main__":
    atomic_write(FILE, text(FILE.read_text()))
    print(FILE)
