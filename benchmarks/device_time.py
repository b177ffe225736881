"""What a call takes on a GPU itself, with inputs that its level-2 cache does not hold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

# Of a GPU that does not say; an H200 has as much.
USUAL_CACHE_BYTES = 60 << 20
# Calls between two events, and how often that is done at least. What they launch must fit the queue
# of the driver, a thousand launches, or the host would wait within the time.
CALLS, FEWEST_BATCHES = 20, 5
# Of torch.cuda._sleep; a GPU with another clock waits a little longer or shorter.
CYCLES_PER_SECOND = 2e9


def cache_bytes(device: torch.device) -> int:
    """The size of a GPU's level-2 cache."""
    return getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0) or (
        USUAL_CACHE_BYTES
    )


def copies_beyond(cache: int, tensors: Sequence[Any]) -> int:
    """How many sets of inputs are read in turn, so that none is found in the cache.

    Args:
        cache: bytes of the cache.
        tensors: one set; what is no tensor does not count.
    """
    size = sum(x.nbytes for x in tensors if isinstance(x, Tensor))
    return max(1, math.ceil(2 * cache / size)) if size else 1


def copied(tensors: Sequence[Any]) -> tuple[Any, ...]:
    """A set of inputs of its own, in other memory and of the same strides."""
    return tuple(
        x.detach().clone().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x
        for x in tensors
    )


def event_seconds(calls: Sequence[Callable[[], Any]]) -> float:
    """Seconds per call on the device alone: the median of batches between two CUDA events.

    The device waits until a batch has been queued, so that no gap between launches is counted. The
    calls take turns, and results live for a whole turn, lest they be written where the cache is.

    Args:
        calls: the same call on one set of inputs after the other; each has run before.
    """
    turns = itertools.cycle(range(len(calls)))
    results: list[Any] = [None] * len(calls)
    batches = max(FEWEST_BATCHES, math.ceil(len(calls) / CALLS))
    seconds = []
    wait = 0.0
    for _ in range(batches + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before = perf_counter()
        torch.cuda._sleep(int(wait * CYCLES_PER_SECOND))
        start.record()
        for turn in itertools.islice(turns, CALLS):
            results[turn] = calls[turn]()
        end.record()
        wait = 2 * (perf_counter() - before) + 1e-4
        end.synchronize()
        seconds.append(start.elapsed_time(end) / CALLS / 1e3)
    return median(seconds[1:])  # before the first nothing waited
