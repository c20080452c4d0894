"""Atomic writes of files and folders, with plain errors where writing fails."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit_ext.errors import UserError

_PREVIOUS = ".previous"


@contextmanager
def _told_plainly(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"output {path}: cannot be written ({error.strerror})") from error
        raise


def make_folder(path: Path) -> Path:
    """Create ``path`` with its parents; raise :class:`UserError` if it cannot be created or written."""
    with _told_plainly(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"\0" * 4096)
    return path


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: Path, content: str | bytes) -> Path:
    """Write ``content`` to ``path`` atomically: after a crash the file is the old one or the new one."""
    data = content.encode() if isinstance(content, str) else content
    with _told_plainly(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    return path


@contextmanager
def atomic_folder(dest: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces ``dest`` on leaving; after an exception ``dest`` is unchanged.

    Replacing takes two renames; :func:`recover_folder` repairs a crash between them.
    """
    with _told_plainly(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(dest)
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
    if previous.exists():
        if dest.exists():
            shutil.rmtree(previous)
        else:
            os.rename(previous, dest)
    for leftover in dest.parent.glob(f".{dest.name}.*"):  # none if there is no such folder
        shutil.rmtree(leftover, ignore_errors=True)
