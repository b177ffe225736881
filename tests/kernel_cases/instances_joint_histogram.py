"""The instances of the Triton kernels of joint_histogram that are compiled: compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.kernels.joint_histogram import joint_histogram_backward, joint_histogram_forward


def launch() -> None:
    """All windows, with a mask and without, of every dtype; tiles of both sizes."""
    for kernel, bins in (("bspline", 32), ("gaussian", 23), ("mattes", 64)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            x, y = torch.rand(2, 1, 2, 8, 16, 32, dtype=dtype).unbind()
            exact = torch.promote_types(dtype, torch.float32)
            mask = torch.ones(1, 1, 8, 16, 32, dtype=exact) if kernel != "gaussian" else None
            ends = torch.tensor([[[0.0, 1.0]] * 2], dtype=exact)
            out = torch.empty(1, bins, bins, dtype=exact)
            scratch = torch.empty(1, 2, bins, bins, dtype=torch.float64)
            options = bins, kernel, 0.5
            joint_histogram_forward(x, y, mask, ends, out, scratch, *options)
            gradients = x.clone(), y.clone()
            joint_histogram_backward(out, x, y, mask, ends, *gradients, scratch, *options)
