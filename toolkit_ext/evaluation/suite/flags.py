"""AutoAttack's own doubts about an evaluation, which it writes to a log, as data."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass

_KINDS = {
    "randomized defense": "randomized",
    "probability distribution": "probabilities",
    "dynamic defense": "dynamic",
    "zero gradient": "zero_gradients",
    "bf16 is slower": "slow_bf16",
    "Square Attack has decreased": "square_beats_white_box",
}
# The file that the library's messages point to is not part of the library.
_POINTER = re.compile(r"\s*See flags_doc\.md for details\.")
_POINTS = re.compile(r"there are (\d+) points with zero gradient")


@dataclass(frozen=True)
class Flag:
    """A reason to doubt a result.

    ``kind`` is ``randomized``, ``probabilities``, ``dynamic``, ``zero_gradients``, ``square_beats_white_box`` (all
    pyautoattack's), ``recheck`` (reported successes that were none), ``slow_bf16`` (precision bf16-verified where that
    is slower) or ``other``; ``attack`` names the attack that
    raised it, empty for the checks before the attacks; ``count`` is the number of examples, or of attack starts for
    zero gradients (an example has one start for each target class and restart).
    """

    kind: str
    message: str
    attack: str = ""
    count: int | None = None

    def __str__(self) -> str:
        return f"{self.kind}{f' ({self.attack})' if self.attack else ''}: {self.message}"

    def to_dict(self) -> dict[str, str | int | None]:
        """The fields, ready for JSON."""
        return dataclasses.asdict(self)


class Collector(logging.Handler):
    """A log of its own (not registered, so nothing reaches the console) that keeps the warnings it gets."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.logger = logging.Logger("pyautoattack")
        self.logger.addHandler(self)
        self._messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())

    def take(self) -> list[str]:
        """The messages since the last call."""
        messages, self._messages = self._messages, []
        return messages


def read_flags(messages: Iterable[str], attack: str = "") -> list[Flag]:
    """One flag for each kind of message, with the points with zero gradient added up."""
    starts, flags = 0, {}
    for message in messages:
        kind = next((kind for text, kind in _KINDS.items() if text in message), "other")
        plain = _POINTER.sub("", message)
        if points := _POINTS.search(message):
            starts += int(points[1])
            plain = f"the input gradient was zero at {starts} attack starts; gradient attacks may be unreliable"
            flags[kind] = Flag(kind, plain, attack, starts)
        else:
            flags[kind if kind != "other" else plain] = Flag(kind, plain, attack)
    return list(flags.values())


def rejected_flag(rejected: dict[str, int], attack: str) -> list[Flag]:
    """The flag for successes that failed the re-check, by reason; none if all passed."""
    if not rejected:
        return []
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items())
    message = f"reported successes that failed the re-check in float32 and are not counted, by reason: {reasons}"
    return [Flag("recheck", message, attack, max(rejected.values()))]
