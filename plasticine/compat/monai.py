"""MONAI's registration layers and losses (1.6), on this package's operators.

Of what these do not serve, MONAI's own originals take care where it is installed.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss as TorchLoss

from plasticine.compat import _handover, _probes, _sampling, monai_grids
from plasticine.compat._patching import Replacement
from plasticine.nn import losses
from plasticine.ops import _autocast
from plasticine.reference.lncc import taps_of

_BLOCKS = "monai.networks.blocks.warp"
_MODES = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}
_PADDINGS = ("zeros", "border", "reflection")
_DIMENSIONS = (2, 3)
# Of the joint histogram: the least and greatest that it serves.
_BINS = (6, 1024)
_SIGMA = (0.25, 1.0)


def _word(value: Any) -> Any:
    """An enum of MONAI's as its word."""
    return getattr(value, "value", value)


def _is_compiled() -> bool:
    """Whether MONAI samples with its own kernels, whose "bicubic" is another than PyTorch's."""
    configuration = sys.modules.get("monai.config.deviceconfig")
    return bool(getattr(configuration, "USE_COMPILED", False))


def _is_served(image: Tensor, ddf: Tensor) -> bool:
    return image.is_floating_point() and (
        image.dtype == ddf.dtype or torch.is_autocast_enabled(image.device.type)
    )


class Warp(_handover.DropIn, nn.Module):
    """``monai.networks.blocks.Warp``: an image at ``p + ddf(p)``, on :func:`plasticine.warp`.

    Coordinates of half types are float32 here, of the image's precision there: in bfloat16 those
    are wrong by tenths of a voxel. Integers as mode or padding, bounds and orders of MONAI's own
    kernels, are handed over to the original, as is "bicubic" where MONAI was compiled.
    """

    def __init__(
        self, mode: Any = "bilinear", padding_mode: Any = "border", jitter: bool = False
    ) -> None:
        """Fixes the options.

        Args:
            mode: "bilinear", "nearest" or "bicubic".
            padding_mode: "border", "zeros" or "reflection".
            jitter: adds to the voxels' positions what a generator seeded with 0 draws from [0, 1).

        Raises:
            NotImplementedError: the options are others, and MONAI is not installed.
        """
        super().__init__()
        self.mode, self.padding_mode, self.jitter = _word(mode), _word(padding_mode), jitter
        self._original: nn.Module | None = None
        served = self.mode in _MODES and self.padding_mode in _PADDINGS
        if not served or (self.mode == "bicubic" and _is_compiled()):
            self._theirs(f"mode {mode!r} with padding_mode {padding_mode!r}")

    def forward(self, image: Tensor, ddf: Tensor) -> Tensor:
        """Warps ``(N, C, *spatial)`` by ``(N, d, *spatial)`` voxels.

        Raises:
            NotImplementedError: the image has neither 2 nor 3 spatial axes.
            ValueError: the field does not have the shape ``(N, d, *image spatial)``.
        """
        _check_field(image, ddf)
        if self._original is not None or not _is_served(image, ddf):
            found: Tensor = self._theirs(f"an image {image.dtype} with a ddf {ddf.dtype}")(
                image, ddf
            )
            return found
        if self.jitter:
            with torch.random.fork_rng():
                torch.random.manual_seed(0)
                ddf = ddf + torch.rand(ddf.shape, dtype=ddf.dtype, device=ddf.device)
        mode = _MODES[self.mode]
        return _sampling.sample(image, ddf, mode=mode, padding=self.padding_mode)

    def _theirs(self, why: str) -> nn.Module:
        if self._original is None:
            original = _handover.theirs(f"{_BLOCKS}.Warp", why)
            self._original = original(self.mode, self.padding_mode, self.jitter)
        return self._original

    def extra_repr(self) -> str:
        """The options."""
        return f"mode={self.mode!r}, padding_mode={self.padding_mode!r}, jitter={self.jitter}"


class DVF2DDF(_handover.DropIn, nn.Module):
    """``monai.networks.blocks.DVF2DDF``, on :func:`plasticine.exponential`.

    With its zeros outside of the grid: near an edge that the velocity crosses the result is wrong
    by voxels, as MONAI's is. ``plasticine.exponential`` continues the field there.
    """

    def __init__(
        self, num_steps: int = 7, mode: Any = "bilinear", padding_mode: Any = "zeros"
    ) -> None:
        """Fixes the options.

        Args:
            num_steps: number of squarings, 1 or more.
            mode: of :class:`Warp`.
            padding_mode: likewise.

        Raises:
            ValueError: there are no steps.
        """
        super().__init__()
        if num_steps <= 0:
            raise ValueError(f"num_steps must be positive, got {num_steps}")
        self.num_steps = num_steps
        self.warp_layer = Warp(mode=mode, padding_mode=padding_mode)

    def forward(self, dvf: Tensor) -> Tensor:
        """The displacement of a velocity ``(N, d, *spatial)`` in voxels.

        Raises:
            NotImplementedError: it has neither 2 nor 3 spatial axes.
            ValueError: it does not have as many components as spatial axes.
        """
        _check_field(dvf, dvf)
        layer = self.warp_layer
        if (layer.mode, layer.padding_mode) == ("bilinear", "zeros") and _is_served(dvf, dvf):
            return _sampling.integrate(dvf, self.num_steps)
        ddf = dvf / 2**self.num_steps
        for _ in range(self.num_steps):
            ddf = ddf + layer(ddf, ddf)
        return ddf


def _check_field(image: Tensor, ddf: Tensor) -> None:
    ndim = image.dim() - 2
    if ndim not in _DIMENSIONS:
        raise NotImplementedError(f"an image must have 2 or 3 spatial axes, got {ndim}")
    expected = (image.shape[0], ndim, *image.shape[2:])
    if ddf.shape != expected:
        raise ValueError(
            f"ddf must have shape {expected} for an image of shape {tuple(image.shape)}, got "
            f"{tuple(ddf.shape)}"
        )


# Attributes of a loss that MONAI reads at every call.
_READ = ("reduction", "smooth_nr", "smooth_dr", "normalize")


class _Loss(_handover.DropIn, TorchLoss):
    """A loss of this package, or MONAI's own where that does not serve it.

    The arguments are its attributes, too.
    """

    name: str

    def __init__(self, ours: type[nn.Module], is_served: bool, **arguments: Any) -> None:
        super().__init__()
        arguments["reduction"] = _word(arguments["reduction"])
        for name, value in arguments.items():
            setattr(self, name, value)
        self._arguments = arguments
        self._original: nn.Module | None = None
        self._ours = ours(**arguments) if is_served else None
        if not is_served:
            self._theirs(", ".join(f"{name}={value!r}" for name, value in arguments.items()))

    def _loss(self, *images: Tensor) -> Tensor:
        self._read()
        images = _autocast.single(*images)
        first = images[0]
        if self._ours is None or any(
            not image.is_floating_point() or image.dtype != first.dtype for image in images
        ):
            dtypes = " and ".join(str(image.dtype) for image in images)
            found: Tensor = self._theirs(dtypes)(*images)
        else:
            found = self._ours(*images)
        return found

    def _read(self) -> None:
        """Follows attributes that were set since."""
        read = {name: getattr(self, name) for name in _READ if name in self._arguments}
        arguments = {**self._arguments, **read}
        if arguments != self._arguments:
            fresh = globals()[self.name](**arguments)
            self._ours, self._original = fresh._ours, fresh._original
            self._arguments = arguments

    def _theirs(self, why: str) -> nn.Module:
        if self._original is None:
            self._original = _handover.theirs(f"monai.losses.{self.name}", why)(**self._arguments)
        return self._original


class LocalNormalizedCrossCorrelationLoss(_Loss):
    """``monai.losses.LocalNormalizedCrossCorrelationLoss``, on :func:`plasticine.lncc`.

    Variances are sums of squared differences here, differences of sums of squares there, which a
    bright image of little contrast loses to rounding in float32. The loss of half images is
    float32. One spatial axis, the triangular kernel, a window of one voxel and reduction "none" are
    handed over to the original.
    """

    name = "LocalNormalizedCrossCorrelationLoss"

    def __init__(
        self,
        spatial_dims: int = 3,
        kernel_size: int = 3,
        kernel_type: str = "rectangular",
        reduction: Any = "mean",
        smooth_nr: float = 0.0,
        smooth_dr: float = 1e-5,
    ) -> None:
        """Sets the window and what the voxels' values become; of the arguments see MONAI.

        Raises:
            ValueError: an argument is none of those.
            NotImplementedError: it is handed over, and MONAI is not installed.
        """
        handed_over = spatial_dims == 1 or kernel_size == 1 or kernel_type == "triangular"
        super().__init__(
            losses.LocalNormalizedCrossCorrelationLoss,
            is_served=not handed_over and _word(reduction) != "none",
            spatial_dims=spatial_dims,
            kernel_size=kernel_size,
            kernel_type=kernel_type,
            reduction=reduction,
            smooth_nr=float(smooth_nr),
            smooth_dr=float(smooth_dr),
        )
        self.ndim = spatial_dims
        if self._original is None:
            taps = taps_of(kernel_size, {"rectangular": "box"}.get(kernel_type, kernel_type))
            kernel: Any = torch.tensor(taps)
            volume: Any = kernel.sum() ** spatial_dims
        else:
            kernel, volume = self._original.kernel, self._original.kernel_vol
        self.register_buffer("kernel", kernel, persistent=False)
        self.register_buffer("kernel_vol", volume, persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of two images ``(N, C, *spatial)``; ValueError where the shapes do not fit."""
        return self._loss(pred, target)


class GlobalMutualInformationLoss(_Loss):
    """``monai.losses.GlobalMutualInformationLoss``, on its joint histogram of this package.

    A Gaussian of other than 0.25 to 1 bins is handed over to the original.
    """

    name = "GlobalMutualInformationLoss"

    def __init__(
        self,
        kernel_type: str = "gaussian",
        num_bins: int = 23,
        sigma_ratio: float = 0.5,
        reduction: Any = "mean",
        smooth_nr: float = 1e-7,
        smooth_dr: float = 1e-7,
    ) -> None:
        """Fixes the options; of the arguments see MONAI.

        Raises:
            ValueError: an argument is none of those.
            NotImplementedError: it is handed over, and MONAI is not installed.
        """
        if num_bins <= 0:
            raise ValueError(f"num_bins must be positive, got {num_bins}")
        super().__init__(
            losses.GlobalMutualInformationLoss,
            is_served=_BINS[0] <= num_bins <= _BINS[1]
            and (kernel_type != "gaussian" or _SIGMA[0] <= sigma_ratio <= _SIGMA[1]),
            kernel_type=kernel_type,
            num_bins=num_bins,
            sigma_ratio=sigma_ratio,
            reduction=reduction,
            smooth_nr=float(smooth_nr),
            smooth_dr=float(smooth_dr),
        )
        centers = preterm = None
        if kernel_type == "gaussian":
            centers = torch.linspace(0.0, 1.0, num_bins)[None, None]
            preterm = 1 / (2 * (centers.diff().mean() * sigma_ratio) ** 2)
        self.register_buffer("bin_centers", centers, persistent=False)
        self.register_buffer("preterm", preterm, persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of two images ``(N, *any)``; ValueError where the shapes differ."""
        if pred.shape != target.shape:
            raise ValueError(
                "pred and target must have one shape, got shapes "
                f"{tuple(pred.shape)} and {tuple(target.shape)}"
            )
        pred, target = (image.reshape(image.shape[0], 1, 1, -1) for image in (pred, target))
        if self._arguments["kernel_type"] == "b-spline":
            # The gradient of the range of values, which the loss of this package has not.
            pred, target = (
                (image - image.min()) / (image.max() - image.min()) for image in (pred, target)
            )
        return self._loss(pred, target)


class _Energy(_Loss):
    def __init__(self, normalize: bool = False, reduction: Any = "mean") -> None:
        """Fixes the options; of the arguments see MONAI.

        Raises:
            ValueError: an argument is none of those.
            NotImplementedError: it is handed over, and MONAI is not installed.
        """
        served = _word(reduction) != "none"
        ours = getattr(losses, self.name)
        super().__init__(ours, is_served=served, normalize=normalize, reduction=reduction)

    def forward(self, pred: Tensor) -> Tensor:
        """The energy of a field ``(N, d, *spatial)``; ValueError where its shape is another."""
        ndim, shape = pred.dim() - 2, tuple(pred.shape)
        if ndim not in (1, *_DIMENSIONS):
            raise ValueError(f"Expecting 3-d, 4-d or 5-d pred (N, d, *spatial), got shape {shape}")
        if min(shape[2:]) < 3:
            raise ValueError(
                f"All spatial dimensions must have 3 voxels or more, got shape {shape}"
            )
        if shape[1] != ndim:
            raise ValueError(
                f"Number of vector components must be that of the spatial axes, got shape {shape}"
            )
        if ndim == 1:
            found: Tensor = self._theirs("one spatial axis")(pred)
            return found
        return self._loss(pred)


class BendingEnergyLoss(_Energy):
    """``monai.losses.BendingEnergyLoss`` of MONAI 1.6, on :func:`plasticine.smoothness`.

    Before 1.6 it derived twice by central differences, which skip every other voxel, and its
    numbers are others: ``patch`` leaves it. One spatial axis and reduction "none" are handed over
    to the original.
    """

    name = "BendingEnergyLoss"


class DiffusionLoss(_Energy):
    """``monai.losses.DiffusionLoss``, on :func:`plasticine.smoothness`.

    One spatial axis and reduction "none" are handed over to the original.
    """

    name = "DiffusionLoss"


REPLACEMENTS: tuple[Replacement, ...] = (
    Replacement(f"{_BLOCKS}.Warp", Warp, _probes.monai_warp),
    Replacement(f"{_BLOCKS}.DVF2DDF", DVF2DDF, _probes.monai_integration),
    Replacement(
        "monai.losses.image_dissimilarity.LocalNormalizedCrossCorrelationLoss",
        LocalNormalizedCrossCorrelationLoss,
        _probes.monai_correlation,
    ),
    Replacement(
        "monai.losses.image_dissimilarity.GlobalMutualInformationLoss",
        GlobalMutualInformationLoss,
        _probes.monai_information,
    ),
    Replacement("monai.losses.deform.BendingEnergyLoss", BendingEnergyLoss, _probes.monai_energy),
    Replacement("monai.losses.deform.DiffusionLoss", DiffusionLoss, _probes.monai_energy),
    *monai_grids.REPLACEMENTS,
)
