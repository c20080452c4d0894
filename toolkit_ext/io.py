"""Writes that are whole or absent, and the errors of a folder that cannot be written."""

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
    """Create ``path`` with its parents; raise :class:`UserError` if that or a write into it is not possible."""
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
    """Write ``content`` to ``path`` so that a reader, or a crash, sees the old file or the new one, never a part."""
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
    """Give an empty folder to fill; on leaving, it takes the place of ``dest``, on an exception nothing changes.

    A folder cannot be replaced in one system call everywhere, so the old one is moved aside first;
    :func:`recover_folder` undoes a crash between the two renames.
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
    """Finish what a killed :func:`atomic_folder` left: bring back the previous folder, sweep up unfinished ones."""
    previous = dest.with_name(dest.name + _PREVIOUS)
    if previous.exists():
        if dest.exists():
            shutil.rmtree(previous)
        else:
            os.rename(previous, dest)
    if dest.parent.is_dir():
        for leftover in dest.parent.glob(f".{dest.name}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
