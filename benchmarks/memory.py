"""How much memory one call takes at most, beyond what was there before, its result included."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
# mallopt's names, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

#: How the figure is measured, as it stands beside it.
HOW = {
    "cuda": "torch.cuda.max_memory_allocated",
    "cpu": "peak resident memory of an untimed call (VmHWM)",
}


def peak_bytes(function: Callable[[], Any], device: torch.device) -> int | None:
    """The peak of one call, which is not the one that is timed; None where it cannot be known.

    On a CPU it is what the kernel says of the whole process, so that native code, NumPy and ITK
    count as torch does. For this call alone the C library maps every block of 64 KiB and more by
    itself: what is freed is gone at once, and no rest of an earlier call serves again unseen.
    """
    if device.type == "cuda":
        return _peak_on_cuda(function)
    if not RESET.exists():
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return None
    library.mallopt(M_MMAP_THRESHOLD, 1 << 16)
    try:
        gc.collect()
        library.malloc_trim(0)
        try:
            RESET.write_text("5")
        except OSError:
            return None
        before = _status_bytes("VmRSS")
        result = function()
        peak = _status_bytes("VmHWM")
        del result
    finally:
        # Where glibc's own moving thresholds end up after large blocks have been freed.
        library.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(M_TRIM_THRESHOLD, 64 << 20)
    return max(0, peak - before)


def _status_bytes(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no {name}")


def _peak_on_cuda(function: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = function()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before
