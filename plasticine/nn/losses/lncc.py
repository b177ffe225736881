"""``lncc`` as a loss, with the argument names of MONAI's."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from plasticine.ops import _checks, _words
from plasticine.ops.lncc import stabilised_lncc
from plasticine.reference.lncc import correlation

_KERNELS = {"rectangular": "box", "gaussian": "gaussian"}
_REDUCTIONS = ("mean", "sum", "none")


class LocalNormalizedCrossCorrelationLoss(torch.nn.Module):
    """The negative local normalised cross-correlation, squared, of ``plasticine.lncc``.

    Its values and gradients are those of MONAI's class of this name. What is MONAI's definition and
    not that of ``plasticine.lncc``:

    - Zeros outside of the image are counted, so that a window at the border has an edge in it
      (``border="zeros"``).
    - A variance, times the number of voxels of a window, is ``smooth_dr`` at least. Where contrast
      is low the loss depends on the unit of the images; ``plasticine.lncc`` leaves out flat windows
      alone, whatever the unit.
    - ``smooth_nr`` is added to the square of the covariance, times the number of voxels.

    In float32 MONAI takes the variance as a difference of sums of squares, which a bright image of
    little contrast loses to rounding; these are sums of squared differences. There is no triangular
    kernel, no dimension 1, and the loss of half images is float32.

    Source: MONAI, ``monai.losses.LocalNormalizedCrossCorrelationLoss``.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        kernel_size: int = 3,
        kernel_type: str = "rectangular",
        reduction: str = "mean",
        smooth_nr: float = 0.0,
        smooth_dr: float = 1e-5,
        **_unknown: NoReturn,
    ) -> None:
        """Sets the window and what the voxels' values become.

        Args:
            spatial_dims: 2 or 3.
            kernel_size: the side of the window in voxels: odd, 3 or more.
            kernel_type: "rectangular" or "gaussian", of a standard deviation of ``kernel_size / 3``
                voxels.
            reduction: "mean" or "sum" over all voxels; "none": the negative map, by the definition
                in plain PyTorch, which takes many times as long.
            smooth_nr: added to the numerator.
            smooth_dr: the least that a variance, as a sum over the window, is taken for.

        Raises:
            ValueError: an argument is none of these.
        """
        if _unknown:
            _words.refuse(LocalNormalizedCrossCorrelationLoss, _unknown)
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims!r}")
        _checks.one_of(kernel_type, "kernel_type", tuple(_KERNELS))
        reduction = str(getattr(reduction, "value", reduction))  # MONAI's enum as well
        if reduction not in _REDUCTIONS:
            raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and 3 or more, got {kernel_size!r}")
        self.spatial_dims = spatial_dims
        self.kernel_size = kernel_size
        self.kernel_type = kernel_type
        self.reduction = reduction
        self.smooth_nr = float(smooth_nr)
        self.smooth_dr = float(smooth_dr)

    @_words.checks_inside
    def forward(self, pred: Tensor, target: Tensor, **_unknown: NoReturn) -> Tensor:
        """The loss of two images.

        Args:
            pred: ``(N, C, *spatial)``, floating point.
            target: of the shape and dtype of ``pred``.

        Returns:
            A scalar, or ``(N, C, *spatial)`` where nothing is reduced; from -1 to 0.

        Raises:
            ValueError: the shapes do not fit.
        """
        if _unknown:
            _words.refuse(self.forward, _unknown)
        _checks.is_tensor(pred, "pred")
        _checks.is_tensor(target, "target")
        if pred.dim() != self.spatial_dims + 2 or pred.shape != target.shape:
            raise ValueError(
                f"expected two images of one shape with {self.spatial_dims} spatial axes, got "
                f"shapes {tuple(pred.shape)} and {tuple(target.shape)}"
            )
        kernel = _KERNELS[self.kernel_type]
        if self.reduction == "none":
            found = correlation(
                *(pred.double(), target.double()),
                window=self.kernel_size,
                kernel=kernel,
                border="zeros",
                stabiliser="floor",
                epsilon=self.smooth_dr,
                numerator=self.smooth_nr,
            )
            return -found.to(torch.promote_types(pred.dtype, torch.float32))
        means = stabilised_lncc(
            *(pred, target),
            mask=None,
            window=self.kernel_size,
            kernel=kernel,
            squared=True,
            border="zeros",
            stabiliser="floor",
            epsilon=self.smooth_dr,
            numerator=self.smooth_nr,
            backend="auto",
        )
        if self.reduction == "sum":
            return -means.sum() * pred[:1].numel()
        return -means.mean()

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"{self.kernel_size}, {self.kernel_type!r}, reduction={self.reduction!r}"
