"""What ``torch.autocast`` does to the operators: the casts that PyTorch's own ops would get.

``F.grid_sample`` is on autocast's list of ops that take the widest type of their inputs, and so is
``warp``; fields lose voxels to 16 bits, and the operators on fields are treated like the ops that
run in float32. An operator's declaration names one of the two functions below. Gradients come back
in the types of the inputs. As in PyTorch, float64 tensors are left alone by the second list.
Outside of autocast nothing is cast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_HALF = frozenset({torch.float16, torch.bfloat16})

# True while autocast is on for any device; cheaper to ask than for one.
is_any_enabled = torch._C._is_any_autocast_enabled


def is_enabled(x: Tensor) -> bool:
    """Whether autocast is on for the device of a tensor."""
    return torch.is_autocast_enabled(x.device.type)


def single(*tensors: Tensor | None) -> tuple[Any, ...]:
    """Tensors as most operators take them under autocast: float32 in place of half types."""
    found: list[Tensor | None] = []
    for x in tensors:
        if x is not None and x.dtype in _HALF and is_enabled(x):
            # One given twice is widened once, so that its two gradients are added in float32.
            same = [y for given, y in zip(tensors, found, strict=False) if given is x]
            x = same[0] if same else x.float()
        found.append(x)
    return tuple(found)


def widest(image: Tensor, displacement: Tensor, affine: Tensor | None = None) -> tuple[Any, ...]:
    """An image with what samples it under autocast, in types that fit.

    The displacement and the affine take their widest type, and that of the image if it is wider. A
    half image stays as it is beside a float32 displacement; beside a float64 one it is widened.
    """
    tensors = [image, displacement] if affine is None else [image, displacement, affine]
    if not (is_enabled(image) and all(x.is_floating_point() for x in tensors)):
        return image, displacement, affine
    field = displacement.dtype
    if affine is not None:
        field = torch.promote_types(field, affine.dtype)
    if field != image.dtype:
        field = torch.promote_types(field, image.dtype)
    if not (image.dtype in _HALF and field == torch.float32):
        image = image.to(field)
    return image, displacement.to(field), None if affine is None else affine.to(field)
