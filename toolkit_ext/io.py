"""Atomic writes of files and folders, their checksums and locks, with plain errors where writing fails."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from toolkit_ext.errors import RunError, UserError, one_line

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

log = logging.getLogger("toolkit_ext")

_PREVIOUS, _TEMPORARY = ".previous", ".tmp"
# A temporary file of this age belongs to a process that was killed: writing one takes seconds.
_ABANDONED_SECONDS = 3600.0


@contextmanager
def friendly_write_errors(path: Path) -> Iterator[None]:
    """Raise a :class:`UserError` of one line that names ``path`` if it cannot be written, whatever the reason."""
    try:
        yield
    except MemoryError as error:
        raise RunError(f"output {path}: there is no memory left to write it") from error
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as an error of its own, raised while it handled that of the system.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UserError(f"output {path}: cannot be written ({cause.strerror or one_line(cause)})") from error


def parse_json(text: str | bytes, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """The value of a JSON text that may be anybody's; a :class:`ValueError` if it is damaged or nested too deeply."""
    try:
        return json.loads(text, parse_constant=parse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_strict_json(text: bytes) -> Any:
    """The value of a text of strict JSON, in a third of the time of :func:`parse_json`; else a :class:`ValueError`.

    Strict JSON has no NaN, numbers that overflow or halves of surrogate pairs. Integers of 65 bits become floats.
    """
    import orjson  # here, as few commands need it

    return orjson.loads(text)


def make_folder(path: Path) -> Path:
    """Create ``path`` with its parents; raise :class:`UserError` if it cannot be created or written."""
    with friendly_write_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"\0" * 4096)
    return path


def check_output(path: Path) -> Path:
    """Return ``path`` if a file can be written there, and make its folder; else raise :class:`UserError`."""
    make_folder(path.parent)
    if path.is_dir():
        raise UserError(f"output {path}: is a folder; give the name of a file")
    return path


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class HashedFile(BufferedWriter):
    """A binary file that hashes what is written to it, as by ``torch.save``."""

    def __init__(self, raw: FileIO) -> None:
        super().__init__(raw)
        self._sha = hashlib.sha256()

    def write(self, data: ReadableBuffer, /) -> int:
        """Write ``data``."""
        self._sha.update(data)
        return super().write(data)

    @property
    def sha256(self) -> str:
        """The SHA-256 of what was written, in hexadecimal."""
        return self._sha.hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[HashedFile]:
    """Yield a file that replaces ``path`` on leaving; after a crash or an exception ``path`` is unchanged."""
    with friendly_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clean_once(path.parent)
        descriptor, name = tempfile.mkstemp(_TEMPORARY, f".{path.name}.", path.parent)
        try:
            with HashedFile(FileIO(descriptor, "wb")) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def atomic_write(path: Path, content: str | bytes) -> Path:
    """Write ``content`` to ``path`` atomically: after a crash the file is the old one or the new one."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return path


def write_new(path: Path, content: str) -> Path:
    """Write ``content`` to ``path`` atomically, never over another file.

    Raises:
        FileExistsError: there is one, perhaps just written by another process.
        UserError: the file cannot be written.
    """
    hidden = atomic_write(path.with_name(f".{path.name}.{os.urandom(4).hex()}{_TEMPORARY}"), content)
    try:
        if path.exists():
            raise FileExistsError(path)
        try:
            os.link(hidden, path)  # unlike a rename, fails if another process has just written the same name
        except FileExistsError:
            raise
        except OSError:
            with friendly_write_errors(path):
                os.rename(hidden, path)  # file systems without hard links
    finally:
        hidden.unlink(missing_ok=True)
    return path


def remove_leftovers(folder: Path, older_than: float = _ABANDONED_SECONDS) -> None:
    """Delete the temporary files in ``folder`` that killed processes left, those of at least ``older_than`` seconds."""
    for leftover in folder.glob(f".*{_TEMPORARY}"):
        with suppress(OSError):  # another process may clean too
            if leftover.is_file() and time.time() - leftover.stat().st_mtime >= older_than:
                leftover.unlink()


@cache
def _clean_once(folder: Path) -> None:
    """Once per process, as a folder may hold thousands of files."""
    remove_leftovers(folder)


@cache
def say_unchecked(path: Path) -> None:
    """Log, once per process, that a file is used although it has no checksum, or that files of a folder are."""
    log.warning("%s: has no checksum, as it is of an older version; it is used unchecked", path)


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Hold the lock of ``folder``, which no other process writes meanwhile, and delete what a killed one left there.

    Raises:
        UserError: with the message ``busy`` if another process holds it; if the folder cannot be locked.
    """
    with friendly_write_errors(folder):
        try:
            lock = FileLock(folder / ".lock", blocking=False).acquire()
        except Timeout:
            raise UserError(busy) from None
        except NotImplementedError as error:
            told = f"output {folder}: cannot be locked ({one_line(error)}); choose a folder on a local disk"
            raise UserError(told) from error
    with lock:
        remove_leftovers(folder, older_than=0.0)
        yield


@contextmanager
def atomic_folder(dest: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces ``dest`` on leaving; after an exception ``dest`` is unchanged.

    Replacing takes two renames; :func:`recover_folder` repairs a crash between them.
    """
    with friendly_write_errors(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(dest)
        if dest.exists() and not dest.is_dir():
            raise UserError(f"output {dest}: is a file; a folder is to be written there")
        fresh = Path(tempfile.mkdtemp(dir=dest.parent, prefix=f".{dest.name}."))
        try:
            yield fresh
            for file in fresh.iterdir():
                _sync(file)
            fresh.chmod(0o755)
            previous = dest.with_name(dest.name + _PREVIOUS)
            if dest.exists():
                os.rename(dest, previous)
            os.rename(fresh, dest)
            _sync(dest.parent)
            shutil.rmtree(previous, ignore_errors=True)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise


def recover_folder(dest: Path) -> None:
    """Clean up after a killed :func:`atomic_folder`: restore the previous folder, delete unfinished ones."""
    previous = dest.with_name(dest.name + _PREVIOUS)
    with friendly_write_errors(dest):
        if previous.exists():
            if dest.exists():
                shutil.rmtree(previous)
            else:
                os.rename(previous, dest)
    for leftover in dest.parent.glob(f".{dest.name}.*"):  # none if there is no such folder
        shutil.rmtree(leftover, ignore_errors=True)
