"""What a fuzzed program may do: give a result, or refuse in one line; within limits of time and work."""

from __future__ import annotations

import json
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from toolkit_ext import cli

SECONDS = 30.0  # of one case; the slowest takes 3 on a busy machine
PASSES = 2_000  # calls of modules, some hundred passes through a small network


class WorkLimitError(BaseException):
    """The case was accepted and has worked for long enough; no handler of errors catches this."""


class HangError(BaseException):
    """The case took longer than :data:`SECONDS`."""


@dataclass(frozen=True)
class End:
    """How a command ended: ``code`` None for one that was stopped at the limit of work."""

    code: int | None
    out: str
    err: str


@contextmanager
def time_limit(seconds: float = SECONDS) -> Iterator[None]:
    """Raise :class:`HangError` after ``seconds``; a timer that runs already (pytest's) goes on afterwards."""

    def stop(*_: Any) -> None:
        raise HangError(f"more than {seconds:g} seconds")

    handler = signal.signal(signal.SIGALRM, stop)
    before = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *before)


@contextmanager
def work_limit(passes: int = PASSES) -> Iterator[None]:
    """Raise :class:`WorkLimitError` after so many calls of modules."""
    left = passes

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise WorkLimitError

    handle = torch.nn.modules.module.register_module_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()


def run(words: list[str], capture: Any) -> End:
    """``toolkit-ext`` with these words, in this process and the current folder; ``capture`` is ``capfd``."""
    threads, argv, handlers = torch.get_num_threads(), sys.argv, logging.getLogger("toolkit_ext").handlers
    sys.argv = ["toolkit-ext", *words]
    code: int | None = 0
    try:
        with time_limit(), work_limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except WorkLimitError:
        code = None
    finally:
        sys.argv = argv
        logging.getLogger("toolkit_ext").handlers = handlers
        torch.set_num_threads(threads)
    printed = capture.readouterr()
    return End(code, printed.out, printed.err)


# Click's own words where there is no value to name.
_NOTHING_TO_NAME = (
    "Missing argument",
    "Missing option",
    "No such option",
    "No such command",
    "requires an argument",
    "extra argument",
)


_AROUND = (("'", "'"), (" ", ":"))  # a word of dashes alone is named where it stands by itself


def judge(words: list[str], end: End, *, accepted: tuple[int | None, ...] = (0, None)) -> None:
    """Fail unless a command gave a result, or ended with exit code 2 and one line that names an option or a value.

    Exit code 1 is that of valid input that cannot go on (a loss that is not finite), in one line too.
    """
    assert "Traceback" not in end.err + end.out, end.err
    if end.code in accepted:
        assert not _errors(end), end.err
        return
    assert end.code in (1, 2), end
    lines = _errors(end)
    assert len(lines) == 1, end.err
    assert end.err.splitlines()[-1] == lines[0], end.err
    assert lines[0].isprintable(), lines
    assert len(lines[0]) < 2_000, lines
    if end.code == 1:
        assert "non-finite loss" in lines[0], lines
    assert names_something(words, lines[0]), f"{lines[0]} names no option or value"


def _errors(end: End) -> list[str]:
    return [line for line in end.err.splitlines() if line.startswith("error:")]


def names_something(words: list[str], line: str) -> bool:
    """Whether ``line`` has a word of the command line, at least its first letters, or needs none."""
    text = line.replace("_", "-")
    parts = {part.strip() for word in words for part in (word, *word.split(","), *word.split("="))}
    dashes = {f"{before}{part}{after}" for part in parts if part and not part.strip("-") for before, after in _AROUND}
    named = any(known in text for known in dashes) or any(
        ascii(part.lstrip("-")).strip("'\"")[:20].replace("_", "-") in text for part in parts if part.strip("-")
    )
    return named or any(known in line for known in _NOTHING_TO_NAME) or "non-finite loss" in line


def broken_files(folder: Path) -> list[str]:
    """Files under ``folder`` that are left over from a write, or cannot be read as what they are named."""
    return [str(path) for path in sorted(folder.rglob("*")) if path.is_file() and _is_broken(path)]


def _is_broken(path: Path) -> bool:
    if path.name.startswith("."):
        return path.name not in (".lock", ".sweep.lock", ".gitignore")
    try:
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as file:
                file.keys()
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix in (".csv", ".md", ".html", ".png", ".tex"):
            return path.stat().st_size == 0 and path.name not in ("log.csv", "gradients.csv")
    except Exception:
        return True
    return False
