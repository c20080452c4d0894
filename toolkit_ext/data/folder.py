"""Folders of images: which files belong to which class and part."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from toolkit_ext.data.reading import Reading
from toolkit_ext.data.splits import split_test
from toolkit_ext.errors import UserError

TEST_NAMES, VALIDATION_NAMES = ("test",), ("val", "valid", "validation")
# Besides names that begin with a dot: folders and files that systems leave behind.
_LEFT_BEHIND = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found"}


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is no part of a data set: ``._a.png``, ``Thumbs.db``, ``.git``."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


class _Folder(ImageFolder):  # type: ignore[misc]  # torchvision is not typed
    """torchvision's listing, without what :func:`is_ignored` says."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, is_valid_file=lambda path: self._is_image(Path(path).relative_to(root)))

    @staticmethod
    def _is_image(path: PurePath) -> bool:
        return path.suffix.lower() in IMG_EXTENSIONS and not any(map(is_ignored, path.parts))

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        classes = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir() and not is_ignored(entry.name))
        if not classes:
            raise FileNotFoundError(f"there is no folder of a class in {directory}")
        return classes, {name: number for number, name in enumerate(classes)}


@dataclass(frozen=True, eq=False)
class Files:
    """Image files ``root / paths[i]`` with ``labels[i]``; once they are checked, their hashes and size.

    Arrays instead of lists, because workers share their memory and lists are copied as they are read.
    """

    root: Path
    paths: np.ndarray[Any, np.dtype[np.bytes_]]
    labels: Tensor
    hashes: np.ndarray[Any, np.dtype[np.uint8]] = field(default_factory=lambda: np.zeros((0, 32), np.uint8))
    size: tuple[int, int] = (0, 0)
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, row: int) -> Path:
        """Where image ``row`` is."""
        return self.root / os.fsdecode(self.paths[row])

    def content(self, row: int) -> bytes:
        """The bytes of image file ``row``."""
        return self.path(row).read_bytes()

    def __getitem__(self, rows: Any) -> Files:
        """The files ``rows``, in their order."""
        kept = np.asarray(rows)
        hashes = self.hashes[kept] if len(self.hashes) else self.hashes
        return replace(self, paths=self.paths[kept], labels=self.labels[torch.from_numpy(kept)], hashes=hashes)

    def digest(self) -> str:
        """SHA-256 over path, label and content of every file, in their order."""
        sha = hashlib.sha256()
        for path, label, content in zip(self.paths, self.labels.tolist(), self.hashes, strict=True):
            sha.update(b"%s\0%d\0%s" % (path, label, content.tobytes()))
        return sha.hexdigest()


def list_folder(name: str, path: Path, reading: Reading) -> tuple[dict[str, Files], tuple[str, ...]]:
    """The files of the folder ``path`` by part, each in a fixed random order, and the classes; no file is opened.

    Raises:
        UserError: a part is missing or empty, or the classes of the parts differ.
    """
    train, validation, test = _find_parts(name, path, reading)
    listings = {part: _listing(name, folder) for part, folder in (("train", train), ("test", test)) if folder}
    if validation:
        listings["validation"] = _listing(name, validation)
    classes = listings["train"].classes
    for part, listing in listings.items():
        if odd := sorted(set(classes) ^ set(listing.classes)):
            other = Path(listings[part].root).name
            raise UserError(f"data {name}: {train.name}/ and {other}/ have different classes ({', '.join(odd[:5])})")
    files = {part: _files(listing) for part, listing in listings.items()}
    if "test" not in files and not reading.training_only:
        files["train"], files["test"] = _split(name, files["train"], reading)
    return {part: found[order_of(len(found))] for part, found in files.items()}, tuple(classes)


def order_of(count: int) -> Tensor:
    """A fixed random order, so that the first n of a set listed by class are a random sample."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def _find_parts(name: str, path: Path, reading: Reading) -> tuple[Path, Path | None, Path | None]:
    """The folders of the training, validation and test part."""
    train = path / (reading.train_split or "train")
    if reading.training_only:
        return (train if train.is_dir() else path), None, None
    if reading.test_fraction is not None and reading.train_split is None and not train.is_dir():
        train = path  # PATH/CLASS/*
    if not train.is_dir():
        raise UserError(
            f"data {name}: no folder {train}; it needs train/ and test/ (or --train-split, --test-split), each a "
            "folder per class, or folders of classes and --test-fraction"
        )
    named = {"validation_split": reading.validation_split, "test_split": reading.test_split}
    for option, split in named.items():
        if split is not None and not (path / split).is_dir():
            raise UserError(f"{option}: {split!r} is not allowed for {name}; there is no folder {path / split}")
    own = [split for split in VALIDATION_NAMES if train != path and (path / split).is_dir() and split != train.name]
    tests = [split for split in TEST_NAMES if train != path and (path / split).is_dir() and split != train.name]
    test = reading.test_split or next(iter(tests), None)
    if test is None and reading.test_fraction is None:
        test = next((split for split in own if split != reading.validation_split), None)
    if test is not None and reading.test_fraction is not None:
        raise UserError(f"test_fraction: {reading.test_fraction} is not allowed for {name}, which has {path / test}")
    if test is None and reading.test_fraction is None:
        raise UserError(f"data {name}: no folder {path / 'test'} or val; give --test-split, or --test-fraction 0.2")
    validation = reading.validation_split or next((split for split in own if split != test), None)
    return train, validation and path / validation, test and path / test  # type: ignore[return-value]


def _listing(name: str, folder: Path) -> Any:
    try:
        return _Folder(folder)
    except (OSError, RuntimeError) as error:
        raise UserError(f"data {name}: {' '.join(str(error).split())[:200]}") from error


def _files(listing: Any) -> Files:
    # Sorted by name: os.walk's order is that of the file system.
    samples = sorted(listing.samples)
    root = Path(listing.root)
    paths = np.array([os.fsencode(os.path.relpath(file, root)) for file, _ in samples], dtype=np.bytes_)
    return Files(root, paths, torch.tensor([label for _, label in samples], dtype=torch.int64))


def _split(name: str, files: Files, reading: Reading) -> tuple[Files, Files]:
    assert reading.test_fraction is not None
    groups = group_names(name, files, reading.group_pattern)
    train, test = split_test(files.labels, reading.test_fraction, groups)
    return files[train], files[test]


def group_names(name: str, files: Files, pattern: str | None) -> list[str] | None:
    """The group of each file: what ``pattern`` (its first group, if it has one) finds in the path.

    Raises:
        UserError: it finds nothing in a path.
    """
    if pattern is None:
        return None
    found = []
    for path in map(os.fsdecode, files.paths):
        match = re.search(pattern, path)
        if match is None:
            raise UserError(f"group_pattern: {pattern!r} finds no group in {path!r} of {name}")
        found.append(match[1] if match.re.groups else match[0])
    return found
