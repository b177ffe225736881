"""What only a GPU's kernels can show, tested where there is no GPU.

The cases are not collected by themselves: test_kernels_triton.py runs them in Triton's interpreter,
test_cuda_build.py on the CUDA kernels compiled for the CPU, in processes of their own, behind the
conformance suite. The tensors are on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import comparison
import pytest
import torch
from torch import Tensor

# A rounding of a result of magnitude 1.
ROUNDING = comparison.ROUNDING | {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture(scope="session")
def assert_close() -> Callable[[Tensor, Tensor, torch.dtype], None]:
    """Compares with a float64 result to the rounding of a dtype, relative to the largest value."""
    return lambda actual, expected, dtype: comparison.assert_close(
        actual, expected, dtype, ROUNDING, equal_nan=True
    )
