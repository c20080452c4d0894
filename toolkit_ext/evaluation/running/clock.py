"""The time that an evaluation may take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from toolkit_ext.errors import UserError, check_positive


@dataclass(frozen=True)
class Clock:
    """A limit of ``minutes`` from now on; None is no limit."""

    minutes: float | None = None
    start: float = field(default_factory=time.monotonic)

    @property
    def is_up(self) -> bool:
        """Whether the time is over."""
        return self.minutes is not None and time.monotonic() - self.start >= 60 * self.minutes


def start_clock(minutes: float | None, *, stores: bool, carries: bool) -> Clock:
    """The :class:`Clock` of an evaluation; ``stores`` and ``carries`` say whether it has a ``state_dir`` and ``carry``.

    Raises:
        UserError: ``minutes`` is not positive, or the evaluation could not be resumed.
    """
    if minutes is None:
        return Clock()
    if not stores:
        raise UserError("max_time: needs a state_dir, from which the evaluation can go on")
    if carries:
        raise UserError("max_time: is not allowed with several radii or protocols; evaluate them one by one")
    return Clock(check_positive("max_time", minutes))
