"""What a run ran on: hardware, library versions, commit and command line, with nothing that names the machine.

Torch is imported when it is asked: records are read without it.
"""

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
_LIBRARIES = {
    "toolkit_ext": "toolkit-ext",
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "torchattacks": "torchattacks",
    "art": "adversarial-robustness-toolbox",
    "pyautoattack": "pyautoattack",
    "numpy": "numpy",
}
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "sve")
_BY_SPEED = ("asimd", "sve", "avx2", "avx512f", "avx512_bf16", "amx_bf16")
# Only changes of these files can change a result; the records and figures that a run writes do not count.
_CODE = ("toolkit_ext", "recipes", "eval", "pyproject.toml")
# A slash that starts a path: not the one of 8/255 or of a URL, and not a slash between words.
_ABSOLUTE = re.compile(r"(?:file://|(?<![\w.~)\]/-]))/(?=[A-Za-z_.~])[^\s=:,;'\"()\[\]]*")
_MB = 2**20


def environment() -> Environment:
    """The machine, the library versions, the commit and the command line of this process."""
    return {"hardware": _hardware(), "versions": _versions(), "git": git_state(), "command": command_line()}


def machine_name(device: str = "cpu") -> str:
    """The name of a benchmark's file: GPU, or processor and threads, and the version of torch.

    ``NVIDIA-H200-torch2.15.0``, ``AMD-EPYC-avx512_bf16-2t-torch2.15.0``: the processor with the best of its
    instruction sets, because virtual machines give processors of several generations one name.
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
    """Model name and feature flags of the CPU; where the system has no ``/proc/cpuinfo``, what torch knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    if not flags:
        import torch

        flags = {{"AVX2": "avx2", "AVX512": "avx512f"}.get(torch.backends.cpu.get_cpu_capability(), "")}
    return facts.get("model name") or platform.processor() or platform.machine(), flags


def _versions() -> dict[str, str | None]:
    import torch

    found: dict[str, str | None] = {"python": platform.python_version(), **dict.fromkeys(_LIBRARIES)}
    for name, distribution in _LIBRARIES.items():
        with suppress(PackageNotFoundError):
            found[name] = version(distribution)
    return found | {"cuda": torch.version.cuda}


def git_state(package: Path = _PACKAGE) -> Git | None:
    """The commit of the checkout whose top folder holds ``package``; null for an installed copy or without git."""
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != package.parent.resolve():
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package.parent, "status", "--porcelain", "--", *_CODE)
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *command: str) -> str | None:
    # Inside a git hook, GIT_DIR and its like would point git at another repository.
    scrubbed = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=30, check=True, env=scrubbed
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def command_line(argv: Sequence[str] | None = None) -> str:
    """The command of this process as one shell line; absolute paths become relative or their last part."""
    given = list(sys.argv if argv is None else argv)
    program, rest = (given[0], given[1:]) if given else ("", [])
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if argv is None and spec is not None:
        head = ["python", "-m", str(spec.name).removesuffix(".__main__")]
    else:
        head = ["python", shorten(program)] if program.endswith(".py") else [Path(program).name or "python"]
    return shlex.join(head + [shorten(argument) for argument in rest])


def shorten(text: str) -> str:
    """``text`` without this machine's folders: paths below the working folder relative, others their last part."""
    whole = Path(text)
    if "\n" not in text and whole.is_absolute() and whole.name:
        return _short(text)
    return _ABSOLUTE.sub(lambda match: _short(match.group()), text)


def _short(path: str) -> str:
    found = Path(path.removeprefix("file://"))
    inside = found.is_relative_to(Path.cwd()) and Path.cwd() != Path(found.anchor)
    return str(found.relative_to(Path.cwd())) if inside else found.name


def portable(value: Any) -> Any:
    """``value`` in JSON's own types, as a record holds it: tuples as lists, paths and texts through :func:`shorten`.

    NumPy scalars become Python numbers; anything else is left for the record's check.
    """
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
    """Peak memory of this process (since :func:`reset_peak_memory`, where the system allows it), host and GPU."""
    import torch

    device = round(torch.cuda.max_memory_allocated() / _MB, 1) if torch.cuda.is_available() else None
    return {"host_mb": peak_memory_mb(), "device_mb": device}


def peak_memory_mb() -> float:
    """Peak resident memory of this process in MB (2**20 bytes), to a tenth."""
    try:
        # Not getrusage: on Linux its peak is inherited from the process that started this one.
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return round(int(found.group(1)) * 1024 / _MB, 1)
    if sys.platform == "win32":
        return round(psutil.Process().memory_info().peak_wset / _MB, 1)
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MB, 1)


def reset_peak_memory() -> None:
    """Start a new peak for the next run of this process; where the system cannot, the peak stays the process's."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
