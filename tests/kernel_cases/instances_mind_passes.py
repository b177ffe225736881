"""The instances of the Triton kernels of mind_distance that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.kernels.mind_distance import mind_distance_backward, mind_distance_forward


def launch() -> None:
    """All kernels in 3D and 2D, of every dtype, with and without a mask."""
    for size in ((8, 16, 32), (16, 32)):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            x, y = torch.rand(2, 1, 1, *size, dtype=dtype).unbind()
            summed = torch.float64 if dtype == torch.float64 else torch.float32
            mask = torch.rand(1, 1, *size, dtype=summed)
            out, grad_x, grad_y = torch.empty(1, dtype=summed), x.clone(), y.clone()
            scratch = torch.empty(1 << 19, dtype=torch.float64)
            for given, kind in ((mask, "charbonnier"), (None, "squared")):
                options = scratch, (1, 2), 0.8, kind, 1e-2
                mind_distance_forward(x, y, given, out, *options)
                mind_distance_backward(out, x, y, given, grad_x, grad_y, *options)
