"""What every GPU implementation of an operator is tested with where there is no GPU.

The cases are not collected by themselves: test_kernels_triton.py runs them in Triton's interpreter,
test_cuda_build.py on the CUDA kernels compiled for the CPU, in processes of their own, with
PLASTICINE_KERNELS set to "triton" or to the path of the compiled module; cases of what the other
backends share run on "cpu" and "reference", too (test_large_tensors.py). The tensors are on the
CPU.
"""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticine import backends

# A rounding of a result of magnitude 1.
ROUNDING = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}


@pytest.fixture(scope="session")
def kernel_backend() -> str:
    """The backend under test: "cuda", "triton", "cpu" or "reference"."""
    which = os.environ["PLASTICINE_KERNELS"]
    if which in ("cpu", "reference"):
        return which
    if which == "triton":
        _mend_interpreter()
        _quicken_interpreter()
        return "triton"
    loader = importlib.machinery.ExtensionFileLoader("_cuda", which)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("_cuda", loader))
    loader.exec_module(module)
    assert module.device_error(0) == ""
    backends.CUDA = module
    torch._C._cuda_getCurrentRawStream = lambda device: 0  # absent without CUDA
    return "cuda"


def _mend_interpreter() -> None:
    """Lets a number that only the run knows bound a loop, in Triton 3.6 with NumPy 2.4 and later.

    A number is an array of one element there, of which Triton makes an int by ``int(array)``. NumPy
    refuses that since 2.4 ("only 0-dimensional arrays can be converted"). Later Tritons do as this.
    """
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_and_mend(tensor: type, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_and_mend


def _quicken_interpreter() -> None:
    """Spares Triton's interpreter four fifths of its time, on what changes no result.

    It replaces triton.language anew for every function that a kernel calls, though the launch has
    done so, and follows every 32-bit sum and product by the 64-bit one: see overflow_checked.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    # Of triton.language.core, which only Triton's own functions name: once for the process.
    interpreter._patch_lang(tl.standard.zeros.fn)
    interpreter.InterpretedFunction.__call__ = lambda function, *arguments, **options: (
        function.rewrite()(*arguments, **options)
    )
    _check_overflow(False)


def _check_overflow(check: bool) -> None:
    from triton.runtime.interpreter import interpreter_builder

    interpreter_builder.options = dataclasses.replace(
        interpreter_builder.options, sanitize_overflow=check
    )


@pytest.fixture
def overflow_checked(kernel_backend: str) -> Iterator[None]:
    """Triton's interpreter raises where a sum or a product of 32-bit integers overflows."""
    if kernel_backend != "triton":
        yield
        return
    _check_overflow(True)
    yield
    _check_overflow(False)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Deterministic algorithms, which also fill what torch.empty returns with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def assert_close() -> Callable[[Tensor, Tensor, torch.dtype], None]:
    """Compares with a float64 result to the rounding of a dtype, relative to the largest value."""

    def compare(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
        largest = expected.nan_to_num().abs().max().item() if expected.numel() else 1.0
        torch.testing.assert_close(
            actual.double(),
            expected.double(),
            rtol=0,
            atol=ROUNDING[dtype] * max(1.0, largest),
            equal_nan=True,
        )

    return compare
