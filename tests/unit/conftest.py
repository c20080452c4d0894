"""What tests of the command line and of generated pages share."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from toolkit_ext import cli
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.running.recheck import recheck

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))  # as "python docs/build_X.py" has it


class Outcome(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch, capfd: Any, tmp_path: Path) -> Callable[..., Outcome]:
    """Run ``toolkit-ext`` with the given words in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["toolkit-ext", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capfd.readouterr()
        return Outcome(code, printed.out, printed.err)

    return call


@pytest.fixture
def damage() -> Callable[..., int]:
    """Flip single bits of a file, and cut it short: every reading gives what was written, or an error of one line.

    Call it with the file, a function that reads it and says whether all is as written, and the number of bits to flip
    (all, if the file has fewer). It returns how often the damage was told, and leaves the file as it was.
    """

    def told(read: Callable[[], bool]) -> bool:
        try:
            assert read()
        except UserError as error:
            return len(str(error).splitlines()) == 1
        return False

    def tried(path: Path, read: Callable[[], bool], bits: int) -> int:
        whole, count = path.read_bytes(), 0
        places = random.Random(0).sample(range(8 * len(whole)), min(bits, 8 * len(whole)))
        for place in places:
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << place % 8
            path.write_bytes(flipped)
            count += told(read)
        for length in {0, 1, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:length])
            told(read)
        path.write_bytes(whole)
        assert read()
        return count

    return tried


@pytest.fixture
def rechecks_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The passes that models count (``calls``, ``stop``) are those of attacks, not of checks of stored successes."""

    def uncounted(model: Any, *args: Any, **options: Any) -> Any:
        calls, stop, model.stop = model.calls, model.stop, -1
        found = recheck(model, *args, **options)
        model.calls, model.stop = calls, stop
        return found

    monkeypatch.setattr("toolkit_ext.evaluation.running.runner.recheck", uncounted)


@pytest.fixture
def corruption_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of 4 times the severity in place of imagecorruptions, which few environments have; drawn as there."""

    def corrupt(image: Any, severity: int, corruption_name: str, seed: int | None = None) -> Any:
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        assert (seed is not None) == (corruption_name in ("impulse_noise", "glass_blur"))
        draw = np.random if seed is None else np.random.RandomState(seed)
        return np.uint8(np.clip(image + draw.normal(0, 4 * severity, image.shape), 0, 255))

    monkeypatch.setitem(sys.modules, "imagecorruptions", SimpleNamespace(corrupt=corrupt))
    monkeypatch.setattr(metadata, "version", lambda package: "1.1.5")
