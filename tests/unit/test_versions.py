"""``toolkit-ext --version``."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from toolkit_ext import __version__
from toolkit_ext.cli import cli, versions


def test_it_names_python_torch_and_the_cuda_that_torch_has() -> None:
    said = CliRunner().invoke(cli, ["--version"]).output
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    plain = torch.__version__.partition("+")[0]
    assert said.startswith(f"toolkit-ext, version {__version__} (Python {platform.python_version()}, torch {plain}")
    assert said.endswith(f", {cuda})\n") or torch.version.hip


@pytest.mark.parametrize(
    ("text", "platform_said"),
    [
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4.2'\n", "ROCm 6.4.2"),
        ('cuda = "12.8"\nhip = None\n', "CUDA 12.8"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", "no CUDA"),
    ],
)
def test_every_build_of_torch(text: str, platform_said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version.py").write_text(text)
    found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(versions, "find_spec", lambda name: found)
    assert versions.versions().endswith(f", {platform_said})")


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        if name == "torch":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(versions, "version", absent)
    assert versions.versions().endswith(", torch is not installed)")
