"""``splat`` on Triton: what the backward kernel of ``warp`` scatters to its image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .warp import warp_backward


def splat(
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    size: Sequence[int],
    mode: str,
    padding: str,
) -> Tensor:
    """Adds every voxel of ``image`` to where it points.

    The sums are made with atomics in float32 (float64 for float64), in fixed point under
    ``torch.use_deterministic_algorithms``, and rounded once.

    Args:
        image: ``(N, C, *spatial)``, any strides; float32, float64, float16 or bfloat16.
        displacement: ``(N, d, *spatial)`` in voxels, any strides; the dtype of the image, or
            float32 with a half image.
        affine: ``(N, d, d + 1)`` in voxels, of the displacement's dtype, or None for the identity.
        size: the spatial size of the result.
        mode: "linear" or "nearest" (ties to even).
        padding: "zeros", "border" or "reflection".

    Returns:
        ``(N, C, *size)``, contiguous, in the image's dtype.
    """
    shape = (*image.shape[:2], *size)
    read = image.new_empty(()).expand(shape)  # of which only dtype and shape are asked for
    needs = (True, False, False)
    result, _, _ = warp_backward(image, read, displacement, affine, mode, padding, needs)
    assert result is not None
    return result
