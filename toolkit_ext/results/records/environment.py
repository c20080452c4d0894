"""Hardware, versions, commit and command line of a run, without names of the machine; torch is imported on use."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from toolkit_ext.results.records.schema import Environment, Git, Hardware, Memory

_PACKAGE = Path(__file__).resolve().parents[2]
_LIBRARIES = ("toolkit_ext", "torch", "torchvision", "timm", "torchattacks", "art", "pyautoattack", "numpy")
_DISTRIBUTIONS = {"art": "adversarial-robustness-toolbox"}
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "sve")
_BY_SPEED = ("asimd", "sve", "avx2", "avx512f", "avx512_bf16", "amx_bf16")
# Only changes to these files can change a result.
_CODE = ("toolkit_ext", "recipes", "eval", "pyproject.toml")
# A slash that starts a path, not one in 8/255, in a URL or between words.
_ABSOLUTE = re.compile(r"(?:file://|(?<![\w.~)\]/-]))/(?=[A-Za-z_.~])[^\s=:,;'\"()\[\]]*")
_MB = 2**20


def environment() -> Environment:
    """The machine, the library versions, the commit and the command line of this process."""
    return {"hardware": _hardware(), "versions": _versions(), "git": git_state(), "command": command_line()}


def machine_name(device: str = "cpu") -> str:
    """The name of a benchmark's file: ``NVIDIA-H200-torch2.15.0``, ``AMD-EPYC-avx512_bf16-2t-torch2.15.0``.

    The best instruction set tells processors apart whose generations share one name in virtual machines.
    """
    here = _hardware()
    gpu = here["gpu"] if device.startswith("cuda") else None
    plain = re.sub(r"\((?:R|TM)\)|@.*", "", gpu or here["cpu"])
    words = [re.sub(r"[^A-Za-z0-9.]+", "-", plain).strip("-")]
    if not gpu:
        best = [flag for flag in _BY_SPEED if flag in here["flags"]][-1:]
        words += [*best, f"{here['threads']}t"]
    return "-".join([*words, f"torch{version('torch').partition('+')[0]}"])


def _hardware() -> Hardware:
    import torch

    model, flags = _cpu()
    return {
        "cpu": model,
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "memory_mb": psutil.virtual_memory().total // _MB,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu() -> tuple[str, set[str]]:
    """Model name and feature flags of the CPU, from ``/proc/cpuinfo`` or else from torch."""
    facts: dict[str, str] = {}
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    if not flags:
        import torch

        flags = {{"AVX2": "avx2", "AVX512": "avx512f"}.get(torch.backends.cpu.get_cpu_capability(), "")}
    return facts.get("model name") or platform.processor() or platform.machine(), flags


def _versions() -> dict[str, str | None]:
    import torch

    found: dict[str, str | None] = {"python": platform.python_version(), **dict.fromkeys(_LIBRARIES)}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(_DISTRIBUTIONS.get(name, name))
    return found | {"cuda": torch.version.cuda}


def git_state(package: Path = _PACKAGE) -> Git | None:
    """The commit of the checkout whose top folder holds ``package``; None for an installed copy or without git."""
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != package.parent.resolve():
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package.parent, "status", "--porcelain", "--", *_CODE)
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *command: str) -> str | None:
    # Inside a git hook, GIT_DIR and similar variables point to another repository.
    scrubbed = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    line = ["git", "-C", str(folder), *command]
    try:
        return subprocess.run(line, capture_output=True, text=True, timeout=30, check=True, env=scrubbed).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def command_line(argv: Sequence[str] | None = None) -> str:
    """The command of this process as one shell line, with paths shortened by :func:`shorten`."""
    program, *rest = (sys.argv if argv is None else argv) or [""]
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if argv is None and spec is not None:
        head = ["python", "-m", str(spec.name).removesuffix(".__main__")]
    else:
        head = ["python", shorten(program)] if program.endswith(".py") else [Path(program).name or "python"]
    return shlex.join(head + [shorten(argument) for argument in rest])


def shorten(text: str) -> str:
    """``text`` with paths below the working folder made relative and other absolute paths cut to their last part."""
    whole = Path(text)
    if "\n" not in text and whole.is_absolute() and whole.name:
        return _short(text)
    return _ABSOLUTE.sub(lambda match: _short(match.group()), text)


def _short(path: str) -> str:
    found = Path(path.removeprefix("file://"))
    inside = found.is_relative_to(Path.cwd()) and Path.cwd() != Path(found.anchor)
    return str(found.relative_to(Path.cwd())) if inside else found.name


def portable(value: Any) -> Any:
    """``value`` in JSON types: tuples as lists, paths and text by :func:`shorten`, NumPy scalars as Python numbers."""
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, str | Path):
        return shorten(str(value))
    if not isinstance(value, bool | int | float) and hasattr(value, "item") and getattr(value, "size", None) == 1:
        return value.item()
    return value


def peak_memory() -> Memory:
    """Peak memory of this process since :func:`reset_peak_memory` (where the system allows a reset), host and GPU."""
    import torch

    device = round(torch.cuda.max_memory_allocated() / _MB, 1) if torch.cuda.is_available() else None
    return {"host_mb": peak_memory_mb(), "device_mb": device}


def peak_memory_mb() -> float:
    """Peak resident memory of this process in MB (2**20 bytes), to a tenth."""
    with suppress(OSError):
        # Not getrusage: on Linux its peak is inherited from the parent process.
        if found := re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE):
            return round(int(found.group(1)) * 1024 / _MB, 1)
    if sys.platform == "win32":
        return round(psutil.Process().memory_info().peak_wset / _MB, 1)
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MB, 1)


def reset_peak_memory() -> None:
    """Start a new peak for the next run; where the system cannot, the peak is that of the whole process."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
