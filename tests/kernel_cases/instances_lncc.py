"""The instances of the Triton kernels of lncc that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.kernels.lncc import lncc_backward, lncc_forward


def launch() -> None:
    """All kernels in 3D and 2D, of every dtype."""
    for size in ((8, 16, 32), (16, 32)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            x, y = torch.rand(2, 2, *size, dtype=dtype).unbind()
            x, y = x[None], y[None]
            out, grad_x, grad_y = torch.empty(1, dtype=dtype), x.clone(), y.clone()
            scratch = torch.empty(2, 5, x.numel(), dtype=torch.float64)
            lncc_forward(x, y, out, scratch, 9)
            lncc_backward(out, x, y, grad_x, grad_y, scratch, 9)
