"""What a study searches: ranges and choices of options, read from text; without torch and without Optuna."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from toolkit_ext.errors import UserError
from toolkit_ext.units import parse_eps

_FORMS = "NAME=LOW:HIGH, NAME=LOW:HIGH:log, NAME=LOW:HIGH:STEP or NAME=A,B"


class Suggests(Protocol):
    """What chooses values, as Optuna's trials do."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


@dataclass(frozen=True)
class Dimension:
    """One option of a search: numbers from ``low`` to ``high``, both included, or one of ``choices``.

    ``step`` is the distance of neighbouring numbers; with ``log`` the logarithm is uniform.
    """

    name: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    integer: bool = False

    @classmethod
    def parse(cls, name: str, text: str, *, integer: bool = False, separator: str = ",") -> Dimension:
        """Read ``0.001:0.1:log``, ``2:10:2`` or ``sgd,adam``; ``separator`` is that of choices.

        Raises:
            UserError: fewer than two values, a bound that is no number, a range that is empty.
        """
        if separator in text or ":" not in text:
            choices = tuple(dict.fromkeys(word.strip() for word in text.split(separator) if word.strip()))
            if len(choices) < 2:
                raise UserError(f"search: {name}={text} is a single value, which is no choice; write {_FORMS}")
            return cls(name, choices)
        low, high, *more = text.split(":")
        if len(more) > 1:
            raise UserError(f"search: {name}={text} is not allowed; write {_FORMS}")
        log = more == ["log"]
        least, most = (_number(name, end, integer) for end in (low, high))
        step = None if log or not more else _number(name, more[0], integer)
        if not least < most or (log and least <= 0) or step == 0 or (step and step > most - least):
            allowed = "LOW must be below HIGH, above 0 for log, and STEP at most their distance"
            raise UserError(f"search: {name}={text} is not allowed; {allowed}")
        return cls(name, (), least, most, step, log, integer)

    def suggest(self, trial: Suggests) -> str:
        """A value that ``trial`` chooses, as text for the command line."""
        if self.choices:
            return str(trial.suggest_categorical(self.name, self.choices))
        if self.integer:
            step = int(self.step or 1)
            return str(trial.suggest_int(self.name, int(self.low), int(self.high), step=step, log=self.log))
        return repr(float(trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)))

    @property
    def ends(self) -> tuple[str, ...]:
        """Values that stand for all of them: every choice, or the two ends of the range."""
        return self.choices or tuple(str(int(end)) if self.integer else repr(end) for end in (self.low, self.high))


def _number(name: str, text: str, integer: bool) -> float:
    found = parse_eps(text, None, f"search {name}")
    if integer and not found.is_integer():
        raise UserError(f"search: {name}: {text} is not allowed; {name} takes whole numbers")
    return found


def ends_of(space: Mapping[str, Dimension]) -> Iterator[tuple[str, dict[str, str]]]:
    """Settings that try every end of every dimension once, the others at their first: its name, and the values."""
    first = {name: dimension.ends[0] for name, dimension in space.items()}
    for name, dimension in space.items():
        yield from ((name, {**first, name: end}) for end in dimension.ends)


def suggest(space: Mapping[str, Dimension], trial: object) -> dict[str, str]:
    """A value for every dimension, chosen by an Optuna ``trial``."""
    return {name: dimension.suggest(cast(Suggests, trial)) for name, dimension in space.items()}
