"""``toolkit-ext --version``: what a report of a problem has to name. torch is not imported, which takes seconds."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import click

_PLATFORM = re.compile(r"^(cuda|hip)\b[^=\n]*=\s*['\"]([^'\"]+)", re.MULTILINE)


def show_versions(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """The callback of ``--version``."""
    if wanted and not ctx.resilient_parsing:
        click.echo(versions())
        ctx.exit()


def versions() -> str:
    """``toolkit-ext, version 0.1.0 (Python 3.11.7, torch 2.15.0, CUDA 13.2)``."""
    try:
        torch = f"torch {version('torch')}, {_platform_of_torch()}"
    except PackageNotFoundError:
        torch = "torch is not installed"
    return f"toolkit-ext, version {version('toolkit-ext')} (Python {platform.python_version()}, {torch})"


def _platform_of_torch() -> str:
    """The version of CUDA or ROCm that torch was built with, from the file that torch itself reads it from."""
    spec = find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    found = _PLATFORM.search(file.read_text(encoding="utf-8")) if file and file.is_file() else None
    return f"{'CUDA' if found[1] == 'cuda' else 'ROCm'} {found[2]}" if found else "no CUDA"
