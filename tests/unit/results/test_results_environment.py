"""What a record says about where it ran: enough to repeat it, nothing that names the machine."""

from __future__ import annotations

import mmap
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from toolkit_ext.results import environment, peak_memory, peak_memory_mb, reset_peak_memory
from toolkit_ext.results.records.checking import check
from toolkit_ext.results.records.environment import command_line, git_state, portable, shorten
from toolkit_ext.results.records.schema import Git, Hardware, Memory


def test_environment_fits_the_record() -> None:
    found = environment()
    check("hardware", found["hardware"], Hardware)
    check("versions", found["versions"], dict[str, str | None])
    check("git", found["git"], Git | None)
    assert (
        found["versions"]["torch"] == torch.__version__.split("+")[0] or found["versions"]["torch"] == torch.__version__
    )
    assert found["versions"]["python"] == platform.python_version()
    assert {"timm", "torchattacks", "art", "pyautoattack", "numpy", "torchvision"} <= found["versions"].keys()
    assert found["hardware"]["cpu"]
    assert socket.gethostname() not in str(found) or len(socket.gethostname()) < 4


def _git(folder: Path, *command: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "core.hooksPath="]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(
        ["git", *identity, *command], cwd=folder, check=True, capture_output=True, text=True, env=clean
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository whose top folder holds a package ``toolkit_ext``; returns the package."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    package = tmp_path / "checkout" / "toolkit_ext"
    package.mkdir(parents=True)
    (package / "a.py").write_text("a = 1\n")
    _git(package.parent, "init", "--quiet")
    return package


def test_commit_of_the_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state(checkout) is None  # nothing is committed
    _git(checkout.parent, "add", ".")
    _git(checkout.parent, "commit", "--quiet", "--message", "first")
    commit = _git(checkout.parent, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as inside a hook of another repository
    assert git_state(checkout) == {"commit": commit, "dirty": False}
    (checkout.parent / "results").mkdir()
    (checkout.parent / "results" / "run.json").write_text("{}")
    assert git_state(checkout) == {"commit": commit, "dirty": False}
    (checkout / "b.py").write_text("b = 1\n")
    assert git_state(checkout) == {"commit": commit, "dirty": True}


def test_no_commit_for_an_installed_copy(checkout: Path, tmp_path: Path) -> None:
    _git(checkout.parent, "add", ".")
    _git(checkout.parent, "commit", "--quiet", "--message", "somebody else's project")
    installed = checkout.parent / "venv" / "site-packages" / "toolkit_ext"
    installed.mkdir(parents=True)
    assert git_state(installed) is None
    assert git_state(tmp_path) is None


def test_no_commit_without_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_state(checkout) is None


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["/usr/local/bin/toolkit-ext", "train", "pgd"], "toolkit-ext train pgd"),
        (["recipes/quickstart.py", "--eps", "8/255"], "python recipes/quickstart.py --eps 8/255"),
        (["{cwd}/recipes/quickstart.py"], "python recipes/quickstart.py"),
        (["/home/somebody/quickstart.py"], "python quickstart.py"),
        (["toolkit-ext", "evaluate", "{cwd}/runs/a", "--out=/data/b/c"], "toolkit-ext evaluate runs/a --out=c"),
        (["toolkit-ext", "--data", "folder:/data/my images"], "toolkit-ext --data 'folder:my images'"),
        (["toolkit-ext", "/data/my images"], "toolkit-ext 'my images'"),
        (["toolkit-ext", "a,/data/b,{cwd}/c", "file:///data/d"], "toolkit-ext a,b,c d"),
        (
            ["toolkit-ext", "https://example.org/x", "a/b", "../c", "/", "."],
            "toolkit-ext https://example.org/x a/b ../c / .",
        ),
        (["toolkit-ext", "it's"], "toolkit-ext 'it'\"'\"'s'"),
        ([""], "python"),
        ([], "python"),
    ],
)
def test_command_line_has_no_paths_of_the_machine(
    argv: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command_line([part.format(cwd=tmp_path) for part in argv]) == line


def test_command_line_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/toolkit-ext", "methods"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert command_line() == "toolkit-ext methods"
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", _spec("toolkit_ext.cli"))
    assert command_line() == "python -m toolkit_ext.cli methods"


def _spec(name: str) -> object:
    return type("Spec", (), {"name": name})()


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("eps 8/255 and 16 /255, clean/robust, clean / robust", None),
        ("see https://example.org/a/b", None),
        ("of '/home/somebody/a.pt' (/home/somebody/b)", "of 'a.pt' (b)"),
        ("first\n/home/somebody/a\n", "first\na\n"),
        ("", None),
    ],
)
def test_paths_inside_text(text: str, short: str | None) -> None:
    assert shorten(text) == (text if short is None else short)


def test_portable_keeps_numbers_as_they_are() -> None:
    given = {"a": (1, 2.5, True, None), "b": np.int64(3), "c": {"d": np.bool_(True)}, "e": np.float64(0.1)}
    assert portable(given) == {"a": [1, 2.5, True, None], "b": 3, "c": {"d": True}, "e": 0.1}
    assert type(portable(np.float32(0.5))) is float


@contextmanager
def mapped(megabytes: int) -> Iterator[None]:
    """Hold that much new memory. Not from malloc, which may hand out pages that the process already holds."""
    block = mmap.mmap(-1, megabytes * 2**20)
    try:
        for _ in range(megabytes):
            block.write(b"\1" * 2**20)
        yield
    finally:
        block.close()


def test_peak_memory_is_a_peak() -> None:
    reset_peak_memory()
    before = peak_memory_mb()
    spare = int(before - psutil.Process().memory_info().rss / 2**20)  # above zero where the system cannot reset
    with mapped(spare + 256):
        during = peak_memory_mb()
    assert during > before + 200
    assert peak_memory_mb() == pytest.approx(during, abs=5)  # the kernel counts in lots of pages
    check("memory", peak_memory(), Memory)
    assert (peak_memory()["device_mb"] is None) == (not torch.cuda.is_available())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system keeps the peak of the whole process")
def test_peak_memory_starts_anew() -> None:
    with mapped(256):
        high = peak_memory_mb()
    reset_peak_memory()
    assert peak_memory_mb() < high - 200
