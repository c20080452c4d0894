"""Files are whole or not there; what the system refuses is one line; what a killed process left is cleaned up."""

from __future__ import annotations

import ast
import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from toolkit_ext import io
from toolkit_ext.errors import RunError, UserError
from toolkit_ext.io import atomic_file, atomic_folder, atomic_write, check_output, locked, make_folder, remove_leftovers
from toolkit_ext.trainers.state import RunFolder

PACKAGE = Path(io.__file__).parent


def _folder(path: Path) -> None:
    with atomic_folder(path) as folder:
        (folder / "file").write_text("x")


WRITERS: dict[str, Callable[[Path], Any]] = {
    "file": lambda path: atomic_write(path, "x"),
    "folder": _folder,
    "new file": lambda path: io.write_new(path, "x"),
    "make_folder": make_folder,
}
CALLS = [
    *(("mkdir", name) for name in WRITERS),
    *((call, name) for call in ("mkstemp", "replace", "fsync") for name in ("file", "new file")),
    *((call, "folder") for call in ("mkdtemp", "fsync", "rename")),
]
NUMBERS = [
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOENT, errno.EBUSY, errno.EISDIR, errno.EIO,
    errno.EMFILE, errno.ENAMETOOLONG, errno.ESTALE, errno.EFBIG, errno.EPERM,
]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
@pytest.mark.parametrize(("call", "name"), CALLS, ids="-".join)
def test_whatever_the_system_refuses_is_one_line(
    call: str, name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    owner = {"mkdir": Path, "mkstemp": tempfile, "mkdtemp": tempfile}.get(call, os)
    monkeypatch.setattr(owner, call, refuse)
    with pytest.raises(UserError, match=r"^output ") as caught:
        WRITERS[name](tmp_path / name)
    assert str(caught.value).endswith(f": cannot be written ({os.strerror(number)})")
    assert not list(tmp_path.iterdir())


def test_no_memory_is_one_line(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_file(tmp_path / "file"):
            raise MemoryError

    with pytest.raises(RunError, match=r"^output .*file: there is no memory left to write it$"):
        write()
    assert not list(tmp_path.iterdir())


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let the system refuse longer files, as a full disk does."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 4096, 50_000])
def test_a_disk_that_fills_up_inside_torch_save_keeps_the_old_state(size: int, tmp_path: Path) -> None:
    model, folder = nn.Sequential(nn.Linear(200, 200)), RunFolder(tmp_path)
    folder.save("last", model, {}, {"fingerprint": {}, "epoch": 1})
    for large in (
        {"fingerprint": {}, "w": torch.zeros(100_000)},
        None,
    ):  # in torch.save, and in the file of the weights
        with no_file_above(size), pytest.raises(UserError, match=r"^output .*: cannot be written \(.*File too large"):
            folder.save("last", model, {}, large)
        assert folder.load() == {"fingerprint": {}, "epoch": 1}
        assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_folder_in_the_way_of_a_file_and_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        check_output(tmp_path / "folder")
    with pytest.raises(UserError, match="cannot be written"):
        check_output(tmp_path / "file" / "inside")
    with pytest.raises(UserError, match="cannot be written"):
        atomic_write(tmp_path / "folder", "x")
    with pytest.raises(UserError, match="is a file; a folder is to be written there"):
        _folder(tmp_path / "file")
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match=r"^output .*: cannot be written"), locked(tmp_path, "busy"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "file", "folder"]
    assert (tmp_path / "file").read_text() == "old"


def test_the_checksum_is_that_of_the_file(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "state.pt") as file:
        torch.save({"a": torch.arange(1000)}, file)
    assert file.sha256 == hashlib.sha256((tmp_path / "state.pt").read_bytes()).hexdigest()
    assert torch.load(tmp_path / "state.pt", weights_only=True)["a"].tolist() == list(range(1000))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[" * 100_000, "nested"), ('{"a":' * 100_000, "nested"), (b"\xff", "utf-8"), ("{", "Expecting"), ("1,", "Extra")],
)
def test_json_of_anybody_is_a_value_or_a_value_error(text: str | bytes, reason: str) -> None:
    assert io.parse_json('{"a": [1, null]}') == {"a": [1, None]}
    with pytest.raises(ValueError, match=reason):
        io.parse_json(text)


def test_json_is_parsed_by_one_function() -> None:
    """``json.loads`` of a text nested too deeply is a RecursionError; here it reads what we made."""
    own = {
        "io.py",
        "backbones/config.py",
        "evaluation/running/state.py",
        "experiments/costs.py",
        "experiments/studies.py",
    }
    found = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if "json.load" in path.read_text()}
    assert found == own


def test_what_killed_processes_left_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    old, new = tmp_path / ".log.csv.abcdefgh.tmp", tmp_path / ".run.json.0123abcd.tmp"
    others = [tmp_path / name for name in (".gitignore", "notes.tmp", ".hidden.settings", "log.csv")]
    for path in (old, new, *others):
        path.write_text("x")
    hours = time.time() - 2 * 3600
    os.utime(old, (hours, hours))
    atomic_write(tmp_path / "other.txt", "x")
    assert not old.exists()
    assert new.exists()  # perhaps another process is writing it
    with locked(tmp_path, "busy"):  # now no other one is
        assert not new.exists()
    assert all(path.exists() for path in others)
    remove_leftovers(tmp_path / "absent")


POSIX_ONLY = {
    "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "spwd", "syslog", "termios", "tty", "curses", "nis",
    "crypt",
}  # fmt: skip
POSIX_NAMES = {
    "fork",
    "forkpty",
    "getuid",
    "geteuid",
    "getgid",
    "uname",
    "setsid",
    "killpg",
    "getpgid",
    "mkfifo",
    "SIGKILL",
}


def _at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: those outside functions."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def _posix(text: str) -> set[str]:
    found: set[str] = set()
    for node in _at_import(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names} & POSIX_ONLY
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names} if node.module in ("os", "signal") else set()
            found |= ({node.module or ""} & POSIX_ONLY) | (names & POSIX_NAMES)
        elif isinstance(node, ast.Attribute):
            found |= {node.attr} & POSIX_NAMES
    return found


def test_nothing_that_windows_lacks_is_needed_to_import() -> None:
    assert {str(path): names for path in PACKAGE.rglob("*.py") if (names := _posix(path.read_text()))} == {}
    assert _posix("import os, fcntl") == {"fcntl"}
    assert _posix("class A:\n    from signal import SIGKILL\n    x = os.fork()") == {"SIGKILL", "fork"}
    assert _posix("def f():\n    import resource") == set()
