"""Let the C library keep the memory that a step frees for the next one."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEPT, _LARGEST = 2**31 - 1, 2**30


def retain_freed() -> bool:
    """Tell glibc's ``malloc`` not to give freed memory back to the system, and whether it could be told.

    A pass on the CPU allocates and frees the same tensors every time. Left alone, glibc gives large ones back to the
    system and asks for them again, and the kernel fills every page with zeros first; layers that do little else, such
    as ReLU, show it most. The price is that the process keeps the memory of its peak, and so this is for a process that
    does nothing else: the command line, recipes and benchmarks call it, trainers and
    :func:`toolkit_ext.evaluation.evaluate` do not. Other C libraries, and an allocator that takes the place of
    ``malloc``, are left alone.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Both, as one alone turns off the rule by which glibc adjusts the other, and makes it slower.
    return bool(mallopt(_M_TRIM_THRESHOLD, _KEPT)) and bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST))
