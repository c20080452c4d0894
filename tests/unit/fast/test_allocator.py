"""What is freed stays with the process, where glibc can be told so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from toolkit_ext.fast.allocator import retain_freed

# Page faults of allocating and freeing 8 MB fifty times: each new page that the kernel hands out is one.
FAULTS = """
import resource, sys
import torch
from toolkit_ext.fast.allocator import retain_freed
told = sys.argv[1] == "keep" and retain_freed()
def pages(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(2_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages(50)  # until the heap has its size
print(int(told), pages(50))
"""


def measured(word: str) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True)
    told, faults = done.stdout.split()
    return int(told), int(faults)


def test_a_tensor_finds_the_pages_of_the_one_before() -> None:
    told, faults = measured("keep")
    if not told:
        pytest.skip("no glibc")
    assert faults < 10_000  # 50 tensors have 100,000 pages, one or two may be new


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert not retain_freed()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not retain_freed()
