"""The instances of the Triton kernels of lncc that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.kernels.lncc import lncc_backward, lncc_forward

OPTIONS = (
    ("box", True, "inside", "flat", 0.0, 0.0),
    ("gaussian", False, "zeros", "flat", 0.0, 0.0),
    ("box", True, "zeros", "floor", 1e-5, 0.0),
    ("box", False, "inside", "offset", 1e-5, 0.0),
)


def launch() -> None:
    """All kernels in 3D and 2D, of every dtype, with and without a mask."""
    for size in ((8, 16, 32), (16, 32)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            x, y = torch.rand(2, 2, *size, dtype=dtype).unbind()
            x, y = x[None], y[None]
            exact = torch.promote_types(dtype, torch.float32)
            out, grad_x, grad_y = torch.empty(1, dtype=exact), x.clone(), y.clone()
            mask = torch.rand(1, 1, *size, dtype=exact)
            scratch = torch.empty(0, dtype=torch.float64)
            for i, options in enumerate(OPTIONS if dtype == torch.float32 else OPTIONS[:1]):
                given = mask if i % 2 else None
                lncc_forward(x, y, given, out, scratch, 9, *options)
                lncc_backward(out, x, y, given, grad_x, grad_y, scratch, 9, *options)
