"""The module that FireANTs imports as ``fireants_fused_ops``, on this package's operators.

FireANTs (https://github.com/rohitrango/FireANTs) runs its fused path where such a module is found:
with this one on a CPU, on any PyTorch, and on a GPU that its own has no wheel for.
``plasticine.compat.patch("fireants")``, before FireANTs is imported, puts it into ``sys.modules``.

What its functions do is known from the calls in FireANTs' Python, its documents and its tests; its
licence forbids copying, and nothing of its kernels was read. Fields there are channel-last, in
(x, y, z) order and in [-1, 1]. A backward function adds to the gradients that it is given; None is
one that is not wanted.

What is said nowhere is not served: a background label, B-spline histograms. Neither is "reflection"
where corners are not aligned.

The width of ``gaussian_blur_fft2`` and ``3`` is that which FireANTs states for its other way to
halve an image, half of the factor; whether theirs is the same is not known.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from plasticine.compat.fireants.cross_correlation import (
    Reduction,
    cc3d_bwd_compute_grads,
    cc3d_bwd_modify_interm_v1,
    cc3d_fwd_interm_v1,
    create_intermediates,
)
from plasticine.compat.fireants.mutual_information import (
    KernelType,
    mutual_information_histogram_bwd,
    mutual_information_histogram_fwd,
)
from plasticine.compat.fireants.sampling import (
    fused_grid_composer_2d_backward,
    fused_grid_composer_2d_forward,
    fused_grid_composer_3d_backward,
    fused_grid_composer_3d_forward,
    fused_grid_sampler_2d_backward,
    fused_grid_sampler_2d_forward,
    fused_grid_sampler_2d_generic_label_backward,
    fused_grid_sampler_2d_generic_label_forward,
    fused_grid_sampler_3d_backward,
    fused_grid_sampler_3d_forward,
    fused_grid_sampler_3d_generic_label_backward,
    fused_grid_sampler_3d_generic_label_forward,
    fused_warp_create_2d_backward,
    fused_warp_create_2d_forward,
    fused_warp_create_3d_backward,
    fused_warp_create_3d_forward,
)
from plasticine.compat.fireants.steps import (
    adam_update_fused,
    gaussian_blur_fft2,
    gaussian_blur_fft3,
)

STANDS_FOR = "fireants_fused_ops"
#: What is not served, and why: of the report of ``patch``.
LEFT = (
    ("background_label", "what it does is not documented: it raises"),
    ("padding_mode='reflection' with align_corners=False", "it raises"),
    ("the B-spline histogram", "it is not documented: it raises"),
    ("gaussian_blur_fft2, gaussian_blur_fft3", "the width is that of FireANTs' other pyramid"),
)


def serve_every_device() -> Callable[[], None]:
    """Lets FireANTs' interpolator take its fused way for CPU tensors too; returns what undoes it.

    It has a table of functions for each way, and takes the other one where a tensor is not on CUDA.
    """
    try:
        interpolator = importlib.import_module("fireants.interpolator").fireants_interpolator
        tables = interpolator._registry
        before, fused = dict(tables[False]), tables[True]
    except (ImportError, AttributeError, KeyError, TypeError):
        return lambda: None  # of another make: CUDA tensors alone are served
    tables[False].update(fused)

    def undo() -> None:
        tables[False].clear()
        tables[False].update(before)

    return undo


__all__ = [
    "KernelType",
    "Reduction",
    "adam_update_fused",
    "cc3d_bwd_compute_grads",
    "cc3d_bwd_modify_interm_v1",
    "cc3d_fwd_interm_v1",
    "create_intermediates",
    "fused_grid_composer_2d_backward",
    "fused_grid_composer_2d_forward",
    "fused_grid_composer_3d_backward",
    "fused_grid_composer_3d_forward",
    "fused_grid_sampler_2d_backward",
    "fused_grid_sampler_2d_forward",
    "fused_grid_sampler_2d_generic_label_backward",
    "fused_grid_sampler_2d_generic_label_forward",
    "fused_grid_sampler_3d_backward",
    "fused_grid_sampler_3d_forward",
    "fused_grid_sampler_3d_generic_label_backward",
    "fused_grid_sampler_3d_generic_label_forward",
    "fused_warp_create_2d_backward",
    "fused_warp_create_2d_forward",
    "fused_warp_create_3d_backward",
    "fused_warp_create_3d_forward",
    "gaussian_blur_fft2",
    "gaussian_blur_fft3",
    "mutual_information_histogram_bwd",
    "mutual_information_histogram_fwd",
]
