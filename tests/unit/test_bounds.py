"""Bounds of options: declared once, and the same for dataclasses, the command line and sweeps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_type_hints

import numpy as np
import pytest

from toolkit_ext.bounds import ANY, COUNT, Bounds, check_options
from toolkit_ext.cli import as_written
from toolkit_ext.cli.sweep import plan
from toolkit_ext.cli.train import train_command
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Protocol
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.landscape.options import Options
from toolkit_ext.trainers.compose import AXES
from toolkit_ext.trainers.config import LoopConfig
from toolkit_ext.types import option

KINDS: list[type[Any]] = [
    LoopConfig,
    Options,
    *dict.fromkeys(kind for kinds in AXES.values() for kind in kinds.values()),
]
NUMBERS = [
    pytest.param(kind, entry.name, hint, entry.metadata.get("bounds", ANY), id=f"{kind.__name__}-{entry.name}")
    for kind in KINDS
    for entry in fields(kind)
    if (hint := get_type_hints(kind, include_extras=True)[entry.name]) in (int, float, int | None, float | None)
    and entry.init
]


def outside(hint: Any, bounds: Bounds) -> Iterator[Any]:
    """Values that no option of this type and these bounds may take."""
    yield from ("x", [1], {}, True, 1 + 1j, math.nan, math.inf, -math.inf, 10**400, -(10**400), 1e308, np.nan)
    if hint in (int, int | None):
        yield from (0.5, 2**31 if bounds.most is None else bounds.most + 1)
    if bounds.above is not None:
        yield from (bounds.above, bounds.above - 1)
    if bounds.least is not None:
        yield bounds.least - 1
    if bounds.below is not None:
        yield from (bounds.below, bounds.below + 1)


@pytest.mark.parametrize(("kind", "name", "hint", "bounds"), NUMBERS)
def test_every_number_is_checked_in_one_line(kind: type[Any], name: str, hint: Any, bounds: Bounds) -> None:
    for value in outside(hint, bounds):
        with pytest.raises(UserError) as caught:
            kind(**{name: value})
        message = str(caught.value)
        assert message.startswith(f"{name}: ")
        assert len(message.splitlines()) == 1
        assert len(message) < 250


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_value_of_another_type_is_an_exception_of_python(kind: type[Any]) -> None:
    for entry in (entry for entry in fields(kind) if not entry.name.startswith("_")):
        for value in (object(), [], {}, [object()], b"x", 1j, [[1]], float("nan"), -1, "", "x" * 1000, ("a", 1), print):
            message = ""
            try:
                kind(**{entry.name: value})
            except UserError as error:
                message = str(error)
            assert len(message.splitlines()) <= 1, (entry.name, value)


@dataclass(frozen=True)
class Sample:
    """One field of each type."""

    count: int = option(1, "how many", COUNT)
    share: float = 0.5
    maybe: float | None = None
    switch: bool = False
    kind: Literal["a", "b"] = "a"
    items: tuple[int, ...] = ()
    table: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_options(self)


def test_numbers_of_numpy_become_those_of_python() -> None:
    found = Sample(
        count=np.int64(3),  # type: ignore[arg-type]
        share=np.float32(0.25),  # type: ignore[arg-type]
        switch=np.bool_(True),  # type: ignore[arg-type]
        items=np.array([1, 2]),  # type: ignore[arg-type]
    )
    assert found == Sample(3, 0.25, None, True, "a", (1, 2))
    assert [type(value) for value in (found.count, found.share, found.switch, found.items[0])] == [
        int,
        float,
        bool,
        int,
    ]
    assert Sample(items=[1, 2]).items == (1, 2)  # type: ignore[arg-type]


def test_what_is_a_plain_number_stays_as_it_is() -> None:
    assert type(Sample(share=1).share) is int  # settings of old runs are compared with new ones


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "count: 0 is not allowed; it must be an integer at least 1"),
        ({"count": 2**40}, f"count: {2**40} is not allowed; it must be an integer at least 1 and at most {2**31 - 1}"),
        ({"share": "1"}, "share: '1' is not allowed; it must be a finite number"),
        ({"switch": 1}, "switch: 1 is not allowed; it must be True or False"),
        ({"kind": "c"}, "kind: 'c' is not known; allowed: a, b"),
        ({"kind": 1}, "kind: 1 is not allowed; it must be text"),
        ({"items": "12"}, "items: '12' is not allowed; it must be a list"),
        ({"items": ["1"]}, "items: '1' is not allowed; it must be an integer"),
        ({"table": 1}, "table: 1 is not allowed; it must be names with values"),
    ],
)
def test_the_message_names_option_value_and_what_is_allowed(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Sample(**given)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch_size", -1), ("n_train", 0), ("n_test", 0), ("seed", -1), ("seed", 2**32), ("epochs", 1.5)],
)
def test_an_experiment_is_checked_wherever_it_is_made(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{name}: {value} is not allowed"):
        Experiment("pgd", **{name: value})
    if name != "seed" and isinstance(value, int):
        with pytest.raises(UserError, match=f"^{name}: {value} is not allowed"):
            plan(("pgd",), (0,), {name: str(value)})


@pytest.mark.parametrize("given", [{"norm": 5}, {"attacks": "aa"}, {"attacks": [1]}, {"alpha": []}, {"version": None}])
def test_a_protocol_is_checked_too(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(given))}: "):
        Protocol(**{"name": "x", "norm": "Linf", "eps": 0.1, **given})


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("n_train: 0 is not allowed", "--n-train: 0 is not allowed"),
        ("backbone-arg: 'x' is not allowed", "--backbone-arg: 'x' is not allowed"),
        ("eps: 8 is not allowed: too large", "--eps: 8 is not allowed: too large"),
        ("checkpoint x: no such folder", "checkpoint x: no such folder"),
        ("n_training: 0", "n_training: 0"),
        ("a message", "a message"),
    ],
)
def test_options_are_shown_as_users_write_them(message: str, shown: str) -> None:
    assert as_written(message, train_command.params) == shown
