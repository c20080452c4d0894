"""Checks of a record against itself: figures that one evaluation gives in several forms must agree.

With c of n images correct, ``metrics`` has c / n, ``intervals`` the Wilson interval of c and n, ``details.robust`` the
n bits, and ``details.attacks`` the counts. What a record does not have is not checked.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from toolkit_ext.errors import UserError
from toolkit_ext.results.records.classes import contradiction_in
from toolkit_ext.results.records.schema import Record
from toolkit_ext.results.tables.formatting import METRICS

DIGEST = "record_sha256"
# Records hold no cycles, and looking for them takes a fifth of the time.
_CANONICAL = json.JSONEncoder(sort_keys=True, check_circular=False)
_ROUNDING = 1e-6
_NORMAL_95 = 1.959963984540054  # the 97.5% quantile of the standard normal distribution


def digest_of(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record, without its own :data:`DIGEST` in ``details``."""
    details = {name: value for name, value in record["details"].items() if name != DIGEST}
    return hashlib.sha256(_CANONICAL.encode({**record, "details": details}).encode()).hexdigest()


def check_consistent(record: Record) -> Record:
    """Return ``record`` if its figures agree with each other.

    Raises:
        UserError: they do not; the message names the fields.
    """
    n = record["n_examples"]
    bits = _survivors(record["details"].get("robust"), n) if n else {}
    _check_metrics(record, bits)
    _check_intervals(record)
    _check_bits(bits)
    _check_attacks(record["details"].get("attacks"), bits, n)
    right = {name: survivors.bit_count() for name, survivors in bits.items()}
    if (classes := record["details"].get("classes")) and (problem := contradiction_in(classes, right, n)):
        raise _contradiction(problem)
    return record


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The Wilson score interval of ``correct / n`` at 95% confidence: Wilson 1927, JASA 22.

    ``statsmodels``, which the evaluation uses, takes a second to import.
    """
    share, square = correct / n, _NORMAL_95**2 / n
    centre, spread = share + square / 2, math.sqrt(square * (share * (1 - share) + square / 4))
    return (centre - spread) / (1 + square), (centre + spread) / (1 + square)


def _check_metrics(record: Record, bits: Mapping[str, int]) -> None:
    """Each metric is the share of its images; none of the attacks has more images than it can have."""
    metrics, n = record["metrics"], record["n_examples"]
    for name, survivors in bits.items():
        value, count = metrics.get(f"{name}_acc"), survivors.bit_count()
        held = value is None or abs(value - count / n) <= _ROUNDING
        if not held:
            raise _contradiction(f"metrics.{name}_acc is {value}, but details.robust.{name} has {count} of {n} images")
    columns = [name for name in METRICS if name in metrics]
    for upper, lower in [("clean_acc", name) for name in columns] + [(name, "union_acc") for name in columns]:
        if {upper, lower} <= metrics.keys():
            held = metrics[lower] <= metrics[upper] + _ROUNDING
            if not held:
                raise _contradiction(f"metrics.{lower} {metrics[lower]} is above metrics.{upper} {metrics[upper]}")


def _check_intervals(record: Record) -> None:
    n = record["n_examples"]
    for name, (low, high) in record["intervals"].items():
        value = record["metrics"][name]
        if not (low - _ROUNDING <= value <= high + _ROUNDING):
            raise _contradiction(f"metrics.{name} {value} is outside intervals.{name}")
        if name in METRICS:
            expected = wilson(round(value * n), n)
            held = max(abs(low - expected[0]), abs(high - expected[1])) <= _ROUNDING
            if not held:
                raise _contradiction(
                    f"intervals.{name} is not the 95% interval of metrics.{name} {value} on {n} images"
                )


def _survivors(robust: object, n: int) -> dict[str, int]:
    """The bits of each attack in ``details.robust``, the last image in the lowest bit."""
    if not isinstance(robust, Mapping):
        return {}
    found = {}
    for name, text in robust.items():
        try:
            number, length = int.from_bytes(bytes.fromhex(text)), len(bytes.fromhex(text))
        except (TypeError, ValueError):
            number, length = 0, -1
        padding = 8 * length - n
        held = 0 <= padding < 8 and number & ((1 << padding) - 1) == 0
        if not held:
            raise _contradiction(f"details.robust.{name} is not the results of {n} images")
        found[str(name)] = number >> padding
    return found


def _check_bits(bits: Mapping[str, int]) -> None:
    """An image that survives is correct without an attack; one that survives all survives each."""
    for name, survivors in bits.items():
        clean, union = bits.get("clean", survivors), bits.get("union", survivors)
        if survivors & ~clean:
            raise _contradiction(f"details.robust.{name} has images that details.robust.clean has not")
        if union & ~survivors:
            raise _contradiction(f"details.robust.union has images that details.robust.{name} has not")
        whole = bits.get("aa", 0) if name.startswith("aa/") else 0
        if whole & ~survivors:
            raise _contradiction(f"details.robust.aa has images that details.robust.{name} has not")


def _check_attacks(attacks: object, bits: Mapping[str, int], n: int) -> None:
    for name, row in attacks.items() if isinstance(attacks, Mapping) else ():
        if not isinstance(row, Mapping) or not {"attempted", "broken", "accuracy"} <= row.keys():
            continue
        attempted, broken, accuracy = (row[key] for key in ("attempted", "broken", "accuracy"))
        numbers = all(isinstance(value, int | float) for value in (attempted, broken, accuracy))
        held = numbers and 0 <= broken <= attempted <= n
        if not held:
            raise _contradiction(f"details.attacks.{name} breaks {broken} of {attempted} images of {n}")
        held = name not in bits or abs(accuracy - bits[name].bit_count() / n) <= _ROUNDING
        if not held:
            raise _contradiction(f"details.attacks.{name}.accuracy is {accuracy}, which details.robust contradicts")


def _contradiction(problem: str) -> UserError:
    return UserError(f"it contradicts itself: {problem}")
