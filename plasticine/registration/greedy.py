"""Greedy registration of a pair: small diffeomorphisms, composed one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plasticine.nn.finite import check_finite, not_finite
from plasticine.nn.modes import plain_modes, recordable
from plasticine.nn.resampling import resample, resize_displacement
from plasticine.ops._checks import is_tensor
from plasticine.ops.compose import COMPOSE
from plasticine.ops.gaussian_smooth import GAUSSIAN_SMOOTH, gaussian_smooth
from plasticine.ops.warp import WARP, WARP_BACKWARD, warp
from plasticine.registration.displaced import AffineDisplacement
from plasticine.registration.similarity import Similarity, SimilarityGradient
from plasticine.registration.unfolding import unfolded

# The longest axis is not shrunk below so many voxels, in which windows would see all of an image,
# and no axis below so few.
_LEAST_LENGTH, _LEAST_SIZE = 24, 8
# A gradient per voxel of movement below which there is nothing to follow but rounding.
_NO_GRADIENT = 0.05
# The longest update is scaled to the step, unless it has come to less than this of the usual one.
_LEAST_UPDATE = 0.2


@dataclass(frozen=True)
class GreedyLevel:
    """One resolution of a greedy registration.

    Attributes:
        factor: by how much the images are shrunk.
        iterations: how many updates are composed.
        update_sigma: how wide the Gaussian is that smooths the gradient, voxels of the level.
    """

    factor: int
    iterations: int
    update_sigma: float = 1.0

    def __post_init__(self) -> None:
        if self.factor < 1 or self.iterations < 0 or not 0 <= self.update_sigma < math.inf:
            raise ValueError(
                "a level needs a factor of at least 1, and iterations and an update_sigma of at "
                f"least 0; got {self}"
            )


def _levels(*iterations: int) -> tuple[GreedyLevel, ...]:
    """Four resolutions, smoother the coarser they are."""
    return tuple(map(GreedyLevel, (8, 4, 2, 1), iterations, (1.7, 1.4, 1.0, 0.7)))


@dataclass(frozen=True)
class GreedyRegistration:
    """Compositive updates of a displacement, each along the gradient of a similarity.

    φ = A∘(id + u). Every iteration warps the moving image, takes the gradient g of its similarity
    with the fixed image to the displacement, and composes u with a small update:

        u <- K_total * (u∘(id + d) + d),   d ∝ m / (|g| + relative mean |g|)

    with g smoothed by K_update, m a running mean of it, |g| the root of a running mean of its
    square, at every voxel, and both K Gaussians. d is scaled so that its longest vector has the
    length ``step``. |g| evens out how far voxels move; what is added to it keeps still those where
    there is little to see. Coarse to fine; the voxels are those of the level's grid. A field that
    folds at the end of a level is smoothed there.

    Attributes:
        levels: the resolutions, in order.
        similarity: what the images are compared by.
        step: the longest update, voxels, in a level's first iteration.
        decay: what each further iteration leaves of it.
        momentum: how much of the running mean of gradients remains at each iteration.
        memory: the same of the running mean of squares.
        relative: see there.
        total_sigma: standard deviation of K_total, voxels.

    Source of the scheme: P. A. Yushkevich et al., "Fast automatic segmentation of hippocampal
    subfields and medial temporal lobe subregions in 3 Tesla and 7 Tesla T2-weighted MRI",
    Alzheimer's & Dementia 12 (2016), with the moments of D. P. Kingma and J. Ba, "Adam", ICLR 2015.
    """

    levels: Sequence[GreedyLevel] = _levels(20, 25, 25, 8)
    similarity: Similarity = field(default_factory=Similarity)
    step: float = 1.0
    decay: float = 0.95
    momentum: float = 0.9
    memory: float = 0.99
    relative: float = 2.0
    total_sigma: float = 0.7

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("a registration needs a level; got none")
        if not 0 < self.step < math.inf:
            raise ValueError(f"step must be positive and finite, in voxels; got {self.step}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be above 0 and up to 1; got {self.decay}")
        for name in ("momentum", "memory"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1; got {getattr(self, name)}")
        for name in ("relative", "total_sigma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite; got {getattr(self, name)}")

    @property
    def iterations(self) -> int:
        """How many there are at all levels together."""
        return sum(level.iterations for level in self.levels)

    @torch.no_grad()
    def __call__(
        self,
        moving: Tensor,
        fixed: Tensor,
        *,
        affine: Tensor | None = None,
        initial: Tensor | None = None,
        spacing: Sequence[float] | None = None,
        moving_mask: Tensor | None = None,
        fixed_mask: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> AffineDisplacement:
        """The map that carries each moving image to its fixed one.

        Nothing is recorded for autograd, and nothing is random: the same bits every time. Pairs do
        not see each other.

        Args:
            moving: (N, C, *spatial), float32 or float64, in any unit.
            fixed: (N, C, *spatial) of the same dtype, channels and number of axes; its grid may
                have another size.
            affine: (N or 1, d, d + 1), from voxels of the fixed image to voxels of the moving one:
                spacing, orientation and an affine registration in one. None is the identity.
            initial: (N, d, *fixed spatial), the displacement u to start from, voxels of the fixed
                image. None is 0.
            spacing: of the fixed image's voxels along each axis, in any unit: thick slices are
                shrunk only where the voxels in them are as coarse. None is the same along all.
            moving_mask: (N or 1, 1, *moving spatial), bool or floating: how much each voxel counts.
            fixed_mask: (N or 1, 1, *fixed spatial), the same of the fixed image.
            progress: called as (iterations done, iterations in all).

        Returns:
            The map on the fixed image's grid, without folds.

        Raises:
            TypeError: the images are not tensors of one floating-point dtype.
            ValueError: shapes do not fit, a spacing is not positive and finite, or an argument
                holds NaN or infinity.
            RuntimeError: the field became NaN or infinite.
        """
        _check(moving, fixed, affine, initial, moving_mask, fixed_mask)
        count, ndim = len(moving), moving.ndim - 2
        spacing = [1.0] * ndim if spacing is None else [float(length) for length in spacing]
        if len(spacing) != ndim or not all(0 < length < math.inf for length in spacing):
            raise ValueError(f"spacing must be {ndim} positive, finite numbers; got {spacing}")
        if affine is None:
            whole = torch.eye(ndim, ndim + 1, dtype=fixed.dtype, device=fixed.device)[None]
        else:
            whole = recordable(affine)
        whole = whole.to(fixed.dtype).expand(count, -1, -1)
        moving, fixed = recordable(moving), recordable(fixed)
        masks = [
            None if mask is None else recordable(mask).to(fixed.dtype)
            for mask in (moving_mask, fixed_mask)
        ]
        moving, fixed = (
            image if mask is None else _filled(image, mask)
            for image, mask in zip((moving, fixed), masks, strict=True)
        )
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, self.iterations)

        with plain_modes(), torch.no_grad():
            u = recordable(initial)
            for level in self.levels:
                if level.iterations == 0:
                    continue
                factors = _factors(level.factor, fixed.shape[2:], spacing)
                size = _shrunk_size(fixed.shape[2:], factors)
                # Voxels of the moving image, along each of its axes, from one fixed voxel to the
                # next: by so many it is shrunk to be of one resolution with the fixed image. In
                # whole numbers, for to be resampled blurs it.
                reach = (whole[:, :, :-1] * whole.new_tensor(factors)).norm(dim=2).amax(0)
                moving_size = _shrunk_size(moving.shape[2:], reach.round().tolist())
                pair = _shrink(moving, moving_size), _shrink(fixed, size)
                coarse_masks = [
                    None if mask is None else _shrink(mask, to)
                    for mask, to in zip(masks, (moving_size, size), strict=True)
                ]
                coarse = _between(whole, fixed.shape[2:], size, moving.shape[2:], moving_size)
                if u is None:
                    u = fixed.new_zeros(count, ndim, *size)
                u = resize_displacement(u, size)
                u = unfolded(self._descend(level, u, pair, coarse, coarse_masks, advance))
                broken = not_finite(u)
                if broken is not None:
                    raise RuntimeError(f"the registration diverged at {level}: of u, {broken}")
            if u is None:
                u = fixed.new_zeros(count, ndim, *fixed.shape[2:])
            if u.shape[2:] != fixed.shape[2:]:
                u = unfolded(resize_displacement(u, fixed.shape[2:]))
        return AffineDisplacement(u, whole if affine is not None else None, moving.shape[2:])

    def _descend(
        self,
        level: GreedyLevel,
        u: Tensor,
        pair: tuple[Tensor, Tensor],
        affine: Tensor,
        masks: Sequence[Tensor | None],
        advance: Callable[[], None],
    ) -> Tensor:
        """The displacement after a level's iterations, on its grid."""
        moving, fixed = pair
        similarity = self.similarity.gradient(moving, fixed)
        gradient = _GradientToDisplacement(moving, u, affine, similarity, masks)
        update_sigma, total_sigma = (
            [sigma] * (u.ndim - 2) for sigma in (level.update_sigma, self.total_sigma)
        )
        # All of the memory that the iterations take.
        u = u.clone()
        mean, square = torch.zeros_like(u), torch.zeros_like(u[:, :1])
        g, update, length = torch.empty_like(u), torch.empty_like(u), torch.empty_like(square)
        every = tuple(range(1, u.ndim))
        for iteration in range(1, level.iterations + 1):
            gradient(u, update, g)
            GAUSSIAN_SMOOTH.into(g, update, update_sigma, False, "auto")
            mean.lerp_(g, 1 - self.momentum)
            square.lerp_(_squared_length(g, length), 1 - self.memory)
            torch.sqrt(square, out=length)
            usual = length.mean(every, keepdim=True)
            # Both running means begin at 0, and are small by as much as they have not seen.
            seen = math.sqrt(1 - self.memory**iteration)
            length.add_(self.relative * usual + _NO_GRADIENT * seen)
            torch.div(mean, length, out=update)
            longest = _squared_length(update, length).amax(every, keepdim=True).sqrt_()
            least = _LEAST_UPDATE * (1 - self.momentum**iteration) / seen
            step = self.step * self.decay ** (iteration - 1)
            update.mul_(step / longest.clamp_min(least))
            COMPOSE.into(g, u, update, "border", "auto")
            GAUSSIAN_SMOOTH.into(u, g, total_sigma, False, "auto")
            advance()
        return u


#: Settings by how long they take: "fast", "default" and "best".
BUDGETS = {
    "fast": GreedyRegistration(_levels(10, 15, 15, 4)),
    "default": GreedyRegistration(),
    "best": GreedyRegistration(_levels(30, 40, 40, 25), decay=0.99),
}


class _GradientToDisplacement:
    """The gradient of a similarity to u, where the moving image is sampled at A(p + u(p)).

    Args:
        moving: (N, C, *any), the level's moving image.
        field: like u.
        affine: (N, d, d + 1), voxels.
        similarity: of the warped and the fixed image.
        masks: of the moving and the fixed image.
    """

    def __init__(
        self,
        moving: Tensor,
        field: Tensor,
        affine: Tensor,
        similarity: SimilarityGradient,
        masks: Sequence[Tensor | None],
    ) -> None:
        self.moving, self.affine, self.similarity = moving, affine, similarity
        self.moving_mask, self.fixed_mask = masks
        linear = affine[:, :, :-1]
        unit = torch.eye(linear.shape[1], dtype=linear.dtype, device=linear.device)
        self.linear = None if bool((linear == unit).all()) else linear.contiguous()
        count, _, *size = field.shape
        self.offset = None if self.linear is None else torch.empty_like(field)
        self.warped = field.new_empty(count, moving.shape[1], *size)

    def __call__(self, u: Tensor, result: Tensor, spare: Tensor) -> None:
        """Writes the gradient at ``u`` to ``result``; ``spare`` is as large, and overwritten."""
        w, of_w = u, result
        if self.linear is not None and self.offset is not None:
            w, of_w = self.offset, spare
            torch.bmm(self.linear, u.flatten(2), out=w.flatten(2))
        words = "linear", "border", "auto"
        WARP.into(self.warped, self.moving, w, self.affine, *words)
        of_warped = self.similarity(self.warped, self._mask(w))
        inputs = of_warped, self.moving, w, self.affine
        WARP_BACKWARD.into((None, of_w, None), *inputs, *words, [False, True, False])
        if self.linear is not None:
            torch.bmm(self.linear.mT, of_w.flatten(2), out=result.flatten(2))

    def _mask(self, w: Tensor) -> Tensor | None:
        if self.moving_mask is None:
            return self.fixed_mask
        mask = warp(self.moving_mask, w, affine=self.affine, padding="zeros")
        return mask if self.fixed_mask is None else mask.mul_(self.fixed_mask)


def _squared_length(vectors: Tensor, out: Tensor) -> Tensor:
    """The squared length of (N, d, *spatial) at each voxel, (N, 1, *spatial)."""
    torch.mul(vectors[:, :1], vectors[:, :1], out=out)
    for axis in range(1, vectors.shape[1]):
        component = vectors[:, axis : axis + 1]
        out.addcmul_(component, component)
    return out


def _factors(factor: int, size: Sequence[int], spacing: Sequence[float]) -> list[float]:
    """By how much each axis is shrunk: thick slices only where the others are as coarse."""
    lengths = [length / min(spacing) for length in spacing]
    longest = max(n * length for n, length in zip(size, lengths, strict=True))
    coarse = min(float(factor), longest / _LEAST_LENGTH)
    return [max(1.0, coarse / length) for length in lengths]


def _shrunk_size(size: Sequence[int], factors: Sequence[float]) -> list[int]:
    return [
        max(math.ceil(n / max(factor, 1.0)), min(n, _LEAST_SIZE))
        for n, factor in zip(size, factors, strict=True)
    ]


def _shrink(image: Tensor, size: Sequence[int]) -> Tensor:
    """Smoothed and sampled on a grid of that size whose corners lie on the image's."""
    step = [max(n - 1, 1) / max(m - 1, 1) for n, m in zip(image.shape[2:], size, strict=True)]
    if all(m == n for m, n in zip(size, image.shape[2:], strict=True)):
        return image
    smooth = gaussian_smooth(image, [0.5 * factor if factor > 1 else 0.0 for factor in step])
    return resample(smooth, size, step)


def _filled(image: Tensor, mask: Tensor) -> Tensor:
    """The image with its surroundings where a mask is 0, for windows and smoothing to meet."""
    counts = (mask > 0).to(image.dtype)
    total = gaussian_smooth(counts, 2.0)
    around = gaussian_smooth(image * counts, 2.0) / total.clamp_min(1e-6)
    return torch.where(counts > 0, image, around)


def _between(
    affine: Tensor,
    fixed: Sequence[int],
    fixed_level: Sequence[int],
    moving: Sequence[int],
    moving_level: Sequence[int],
) -> Tensor:
    """An affine map between whole grids, between their shrunk ones."""

    def ratio(level: Sequence[int], whole: Sequence[int]) -> Tensor:
        steps = [max(m - 1, 1) / max(n - 1, 1) for m, n in zip(level, whole, strict=True)]
        return affine.new_tensor(steps)

    to_level = ratio(moving_level, moving)[:, None]
    of_level = torch.cat([ratio(fixed_level, fixed), affine.new_ones(1)])
    return to_level * affine / of_level


def _check(
    moving: Tensor,
    fixed: Tensor,
    affine: Tensor | None,
    initial: Tensor | None,
    moving_mask: Tensor | None,
    fixed_mask: Tensor | None,
) -> None:
    is_tensor(moving, "moving")
    is_tensor(fixed, "fixed")
    if moving.dtype not in (torch.float32, torch.float64) or fixed.dtype != moving.dtype:
        raise TypeError(
            f"images must be float32 or float64, both alike; got {moving.dtype} and {fixed.dtype}"
        )
    if (
        moving.ndim not in (4, 5)
        or fixed.ndim != moving.ndim
        or fixed.shape[:2] != moving.shape[:2]
        or 0 in (*moving.shape, *fixed.shape)
    ):
        raise ValueError(
            "images must be (N, C, *spatial) of the same N and C, with 2 or 3 axes; "
            f"got {tuple(moving.shape)} and {tuple(fixed.shape)}"
        )
    count, ndim = len(fixed), fixed.ndim - 2
    for name, given, alone, shape in (
        ("affine", affine, True, (ndim, ndim + 1)),
        ("initial", initial, False, (ndim, *fixed.shape[2:])),
        ("moving_mask", moving_mask, True, (1, *moving.shape[2:])),
        ("fixed_mask", fixed_mask, True, (1, *fixed.shape[2:])),
    ):
        if given is None:
            continue
        is_tensor(given, name)
        if given.shape[1:] != shape or not (len(given) == count or (alone and len(given) == 1)):
            raise ValueError(
                f"{name} must be ({count}{' or 1' if alone else ''}, "
                f"{', '.join(map(str, shape))}); got {tuple(given.shape)}"
            )
        if given.device != fixed.device:
            raise ValueError(f"{name} must be on {fixed.device}; got {given.device}")
        check_finite(given, name)
    check_finite(moving, "moving")
    check_finite(fixed, "fixed")
