"""The precision that a network runs in."""

from __future__ import annotations

from typing import Literal, get_args

import torch

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision on a device; "float32" is none.

    Raises:
        ValueError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    dtype = getattr(torch, precision)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
