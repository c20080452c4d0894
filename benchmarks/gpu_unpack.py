"""Unpack a pack of ``gpu_pack.py``: check every file, install the wheels, and write the images as an image folder.

    python benchmarks/gpu_unpack.py PACK SITE IMAGES

The wheels go to the folder SITE, for ``PYTHONPATH``, the images to ``IMAGES/{train,test}/CLASS/*.png``; those of an
earlier part stay. Runs before any package is installed, so it imports the standard library alone until then.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

# In the order of the labels, which is that of the alphabet too.
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE, ROWS, COLUMNS = 32, 40, 25  # of an image in pixels, of a mosaic in images
PER_MOSAIC = ROWS * COLUMNS


def check(pack: Path) -> None:
    """Compare every file with the manifest; end with one line if one is missing or differs."""
    manifest = pack / "manifest.json"
    if not manifest.is_file():
        sys.exit(f"error: pack: no manifest.json in {pack}")
    for name, facts in json.loads(manifest.read_text())["files"].items():
        file = pack / name
        if not file.is_file():
            sys.exit(f"error: pack: {file} is missing")
        if hashlib.sha256(file.read_bytes()).hexdigest() != facts["sha256"]:
            sys.exit(f"error: pack: {file} is not the file of the manifest")


def install(pack: Path, site: Path) -> None:
    """Install all wheels of the pack into ``site``, without an index."""
    wheels = [str(wheel) for wheel in sorted((pack / "wheels").glob("*.whl"))]
    words = ["install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade"]
    words += ["--disable-pip-version-check", "--root-user-action=ignore", "--target", str(site)]
    if wheels and subprocess.run([sys.executable, "-m", "pip", *words, *wheels]).returncode:
        sys.exit(f"error: pack: pip cannot install its wheels for Python {sys.version.split()[0]}, see the line above")


def write_images(images: Path, labels: dict[str, list[int]], mosaic: Path) -> None:
    """Write the 1,000 images of ``mosaic``, unless it was done before; a hidden file says so."""
    import numpy as np
    import pillow_jxl  # noqa: F401  (teaches Pillow to read JPEG XL)
    from PIL import Image

    part, number = mosaic.stem.split("-")
    done = images / f".{mosaic.stem}"
    if done.exists():
        return
    grid = np.asarray(Image.open(mosaic)).reshape(ROWS, SIDE, COLUMNS, SIDE, 3)
    tiles = grid.swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
    for index, tile in enumerate(tiles, start=PER_MOSAIC * int(number)):
        file = images / part / CLASSES[labels[part][index]] / f"{index:05d}.png"
        Image.fromarray(tile).save(file, compress_level=1)
    done.touch()


def unpack(pack: Path, images: Path) -> None:
    """Write the images of all mosaics of the pack."""
    labels = json.loads(lzma.decompress((pack / "cifar10" / "names.json.xz").read_bytes()))["labels"]
    for part in ("train", "test"):
        for name in CLASSES:
            (images / part / name).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(write_images, images, labels), sorted((pack / "cifar10").glob("*.jxl"))))


def main() -> None:
    """Check, install, unpack."""
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    pack, site, images = map(Path, sys.argv[1:])
    check(pack)
    install(pack, site)
    sys.path.insert(0, str(site))
    unpack(pack, images)
    count = {part: PER_MOSAIC * len(list(images.glob(f".{part}-*"))) for part in ("train", "test")}
    print(f"{images}: {count['train']} training and {count['test']} test images")


if __name__ == "__main__":
    main()
