"""Pack what a machine without network lacks: wheels of our dependencies, and as much of CIFAR-10 as fits.

    python -m pip list --format=freeze > installed.txt         # on that machine
    python benchmarks/gpu_pack.py --installed installed.txt --cifar10 DIR --limit 48 --output outputs/pack

``--cifar10`` is a folder of lossless JPEG XL mosaics of 1,000 images (``train-00.jxl`` …, ``test-00.jxl``) with their
labels (``names.json.xz``). A pack holds the first 1,000 test images and the first training mosaics within the limit,
``--part 2`` the following ones; every part holds the wheels, so that each works alone. ``manifest.json`` has the size
and the SHA-256 of each file. ``benchmarks/gpu_day.sh --pack`` takes it from there.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

import click
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from toolkit_ext.errors import UserError, check_positive
from toolkit_ext.io import atomic_write

ROOT = Path(__file__).parents[1]
# What the stages need beside our dependencies: the tests, and the decoder of the mosaics.
STAGES = ("pytest", "pytest-timeout", "pytest-xdist", "pillow-jxl-plugin")
NEVER = ("torch", "torchvision")
LEFT_OUT = {"pyautoattack": "pyautoattack/examples/"}  # 41 MB of example weights
LABELS, TEST = "names.json.xz", "test-00.jxl"
MANIFEST, MANIFEST_ROOM, MIB = "manifest.json", 1 << 16, 1 << 20
Installed = Mapping[str, str | None]


def read_installed(file: Path) -> dict[str, str | None]:
    """Versions by name, from lines such as ``numpy==2.4.0``; a bare name stands for any version."""
    lines = [line.partition("#")[0].split(";")[0].strip() for line in file.read_text().splitlines()]
    parts = [line.partition(" @ ")[0].partition("==") for line in lines if line and not line.startswith("-")]
    return {canonicalize_name(name.strip()): version.strip() or None for name, _, version in parts}


def is_there(need: Requirement, installed: Installed) -> bool:
    """Whether the target has a version that ``need`` allows."""
    name = canonicalize_name(need.name)
    version = installed.get(name)
    return name in installed and (version is None or need.specifier.contains(version, prereleases=True))


def requirements_of(wheel: Path, extras: Iterable[str], python: str) -> list[Requirement]:
    """What ``wheel`` requires on Linux with that version of Python."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        listed = HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    machine: dict[str, Any] = {**default_environment()}
    machine |= {"python_version": python, "python_full_version": f"{python}.0"}
    machine |= {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
    found = [Requirement(text) for text in listed]
    return [
        need
        for need in found
        if not need.marker or any(need.marker.evaluate({**machine, "extra": extra}) for extra in ("", *extras))
    ]


def download(need: Requirement, folder: Path, python: str) -> Path:
    """The wheel for ``need`` from the package index, in a version of ``constraints.txt`` where it has one."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)] + ["manylinux2014_x86_64"]
    target = ["--python-version", python, "--implementation", "cp", *(f"--platform={name}" for name in platforms)]
    new = folder / "new"
    words = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--constraint", str(ROOT / "constraints.txt")]
    command = [sys.executable, "-m", "pip", *words, *target, "--dest", str(new), f"{need.name}{need.specifier}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"wheel of {need.name}{need.specifier} for Python {python}: {reason}")
    (wheel,) = new.glob("*.whl")
    return Path(shutil.move(wheel, folder / wheel.name))


def slim(wheel: Path, left_out: str) -> None:
    """Write ``wheel`` again without the files whose names begin with ``left_out``, also in its list of files."""
    small = wheel.with_suffix(".small")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            if entry.filename.startswith(left_out):
                continue
            content = source.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                rows = [row for row in csv.reader(io.StringIO(content.decode())) if not row[0].startswith(left_out)]
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows(rows)
                content = text.getvalue().encode()
            target.writestr(entry, content)
    small.replace(wheel)


def wheels(wanted: Iterable[str], installed: Installed, folder: Path, python: str) -> None:
    """Fill ``folder`` with the wheels that the target lacks for ``wanted``, and those that they need in turn.

    Raises:
        UserError: it lacks torch or torchvision, or there is no wheel.
    """
    queue, seen = [Requirement(text) for text in wanted], set()
    folder.mkdir(parents=True)
    while queue:
        need = queue.pop(0)
        name = canonicalize_name(need.name)
        if name in seen or is_there(need, installed):
            continue
        if name in NEVER:
            raise UserError(f"installed: {need} is not in the list; the target must bring torch and torchvision")
        seen.add(name)
        wheel = download(need, folder, python)
        if name in LEFT_OUT:
            slim(wheel, LEFT_OUT[name])
        queue += requirements_of(wheel, need.extras, python)
    shutil.rmtree(folder / "new", ignore_errors=True)


def pieces(folder: Path, room: int, part: int) -> list[Path]:
    """The training mosaics of that part: consecutive ones of together at most ``room`` bytes.

    Raises:
        UserError: no mosaics in ``folder``, no room for one, or all of them are in earlier parts.
    """
    left = sorted(folder.glob("train-*.jxl"))
    if not left:
        raise UserError(f"cifar10: no train-*.jxl in {folder}")
    for number in range(1, part + 1):
        taken, size = 0, 0
        while taken < len(left) and size + left[taken].stat().st_size <= room:
            size += left[taken].stat().st_size
            taken += 1
        if not taken and left:
            raise UserError(f"limit: too small, {room / MIB:.1f} MiB are left for images; a mosaic takes 1.5")
        if not left:
            raise UserError(f"part: {part} is not allowed; {number - 1} parts hold everything")
        chosen, left = left[:taken], left[taken:]
    return chosen


def describe(folder: Path, part: int) -> Path:
    """Write the manifest of ``folder``: every file with its bytes and SHA-256."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    facts = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files
    }
    return atomic_write(folder / MANIFEST, json.dumps({"part": part, "files": facts}, indent=1) + "\n")


def size_of(folder: Path) -> int:
    """Bytes of all files in ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@click.command(help=__doc__)
@click.option("--installed", required=True, type=click.Path(path_type=Path, exists=True), help="packages of the target")
@click.option("--cifar10", required=True, type=click.Path(path_type=Path, exists=True), help="folder of the mosaics")
@click.option("--limit", default=64.0, show_default=True, help="size of the pack at most, in MiB")
@click.option("--part", default=1, show_default=True, help="which part of the training images")
@click.option("--python", default="3.12", show_default=True, help="Python of the target")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="folder to make")
def main(installed: Path, cifar10: Path, limit: float, part: int, python: str, output: Path) -> None:
    check_positive("limit", limit)
    check_positive("part", part)
    if output.exists() and any(output.iterdir()):
        raise UserError(f"output: {output} is not empty; give a new folder")
    for name in (LABELS, TEST):
        if not (cifar10 / name).is_file():
            raise UserError(f"cifar10: no {name} in {cifar10}")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wheels([*project["dependencies"], *STAGES], read_installed(installed), output / "wheels", python)
    images = output / "cifar10"
    images.mkdir()
    for name in (LABELS, TEST):
        shutil.copy(cifar10 / name, images)
    chosen = pieces(cifar10, int(limit * MIB) - size_of(output) - MANIFEST_ROOM, part)
    for piece in chosen:
        shutil.copy(piece, images)
    describe(output, part)
    brought = len(list((output / "wheels").glob("*.whl")))
    click.echo(f"{output}: {brought} wheels, {len(chosen)},000 training images, {size_of(output) / MIB:.1f} MiB")


if __name__ == "__main__":
    from toolkit_ext.cli import guarded

    guarded(main)
