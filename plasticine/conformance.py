"""Every operator as it is checked: how it is called, with which tensors, and its definition.

The conformance suite of the tests and ``plasticine selfcheck`` go by this. An operator is added by
one entry of OPERATORS, and by one line of MAKERS for each tensor whose name is new there.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.ops import REGISTRY

Sizes = tuple[tuple[int, ...], tuple[int, ...]]
"""Of what is sampled, and of the grid where it is."""
Tensors = dict[str, Tensor]
Options = dict[str, Any]

# Odd, unequal, rows longer than a SIMD register or a tile, axes of one and of two voxels.
SIZES: dict[str, Sizes] = {
    "2d": ((7, 5), (6, 9)),
    "2d-long": ((37, 70), (4, 83)),
    "2d-thin": ((1, 9), (5, 1)),
    "2d-small": ((2, 3), (2, 2)),
    "3d": ((5, 4, 7), (3, 6, 5)),
    "3d-long": ((6, 5, 35), (4, 3, 51)),
    "3d-thin": ((4, 1, 3), (1, 5, 4)),
    "3d-small": ((2, 2, 2), (3, 2, 5)),
}
METHODS = ("euler", "midpoint", "rk4")
MODES = ("linear", "nearest", "cubic", "bspline")
SPACING = (0.5, 2.0, 1.25)
HALF = (torch.float16, torch.bfloat16)
CONSTANTS = ("mask", "value_range")
"""The tensors that have no gradient, in any operator."""
ROUNDING = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}
"""A rounding of a result of magnitude 1."""


class Maker:
    """Float64 tensors of random numbers, by the names of the parameters that take them."""

    def __init__(self, sizes: Sizes, batch: int = 2, channels: int = 3, seed: int = 7) -> None:
        self.source, self.grid = sizes
        self.ndim, self.batch, self.channels = len(self.grid), batch, channels
        self.generator = torch.Generator().manual_seed(seed)

    def randn(self, *shape: int) -> Tensor:
        """Normally distributed numbers."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def image(self, size: tuple[int, ...]) -> Tensor:
        """Noise in every channel."""
        return self.randn(self.batch, self.channels, *size)

    def vectors(self, size: tuple[int, ...], scale: float) -> Tensor:
        """One a voxel, independent of its neighbours'."""
        return self.randn(self.batch, self.ndim, *size) * scale

    def mask(self) -> Tensor:
        """How much each voxel counts: some do not at all."""
        drawn = self.randn(self.batch, 1, *self.source)
        return (drawn.abs() / 2 + 0.5).masked_fill(drawn < -1, 0)

    def value_range(self) -> Tensor:
        """Of two images: some values lie beyond."""
        ends = torch.tensor([-1.4, 1.6], dtype=torch.float64)
        return ends + self.randn(self.batch, 2, 2) * 0.1

    def affine(self) -> Tensor:
        """One near the identity."""
        identity = torch.eye(self.ndim, self.ndim + 1, dtype=torch.float64)
        return identity + self.randn(self.batch, self.ndim, self.ndim + 1) * 0.2

    def smooth(self, nodes: int, most: float) -> Tensor:
        """Vectors between this many nodes along an axis, up to about ``most`` voxels."""
        coarse = self.randn(self.batch, self.ndim, *[nodes] * self.ndim) * most / 2
        mode = "bilinear" if self.ndim == 2 else "trilinear"
        if 0 in (self.batch, *self.grid):
            return coarse.new_zeros(self.batch, self.ndim, *self.grid)
        return F.interpolate(coarse, self.grid, mode=mode, align_corners=True)

    def invertible(self) -> Tensor:
        """Of neighbours that differ by 0.2 at most: it does not fold, nor over zeros."""
        smooth = self.smooth(3, 1.0)
        steps = (smooth.diff(dim=axis).abs() for axis in range(2, smooth.dim()))
        steepest = max((x.max().item() for x in steps if x.numel()), default=0.0)
        return smooth * min(0.4, 0.2 / max(steepest, 1e-9))


MAKERS: dict[str, Callable[[Maker], Tensor]] = {
    "image": lambda make: make.image(make.source),
    "images": lambda make: make.image(make.source),
    "displacement": lambda make: make.vectors(make.grid, 2.5),  # reaches well outside
    "affine": lambda make: make.affine(),
    "u": lambda make: make.vectors(make.source, 2.0),
    "v": lambda make: make.vectors(make.grid, 2.0),
    "velocity": lambda make: make.smooth(3, 2.0),
    "x": lambda make: make.image(make.source),
    "y": lambda make: make.image(make.source),
    "mask": lambda make: make.mask(),
    "value_range": lambda make: make.value_range(),
    # What some operators take by these names.
    "pushed": lambda make: make.image(make.grid),
    "rough": lambda make: make.vectors(make.grid, 0.7),
    "invertible": lambda make: make.invertible(),
}


@dataclass(frozen=True)
class Operator:
    """One operator, and what is special to it.

    Attributes:
        name: as plasticine.ops.REGISTRY has it.
        function: the public function.
        definition: of float64 tensors, without a backend: what ``result`` makes of the function's.
        makers: of MAKERS, for tensors that are not made as others of their names.
        choices: values of options that are not words; of a tensor that may be None, False and True.
        extra: other options, which depend on the sizes and the dtype.
        result: makes one tensor of what the function returns.
        channels: of the images.
        accumulated: whether the result of half tensors is float32.
        differentiable: how many times.
        forward_mode: whether it has tangents.
        rounding: of a result of magnitude 1, by dtype.
        gradient_rounding: the same of a gradient, where it is another.
        kinks: whether it samples where a displacement of its own leads: the gradient has a jump at
            every voxel, and rounding may put a few locations on the other side.
        local: whether a value that is not finite stays where the definition has it.
    """

    name: str
    function: Callable[..., Any]
    definition: Callable[..., Tensor]
    makers: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    extra: Callable[[Sizes, torch.dtype], Options] = lambda sizes, dtype: {}
    result: Callable[[Any], Tensor] = lambda result: result
    channels: int = 3
    accumulated: bool = False
    differentiable: int = 2
    forward_mode: bool = False
    rounding: Mapping[torch.dtype, float] = field(default_factory=lambda: ROUNDING)
    gradient_rounding: Mapping[torch.dtype, float] | None = None
    kinks: bool = False
    local: bool = True

    def __str__(self) -> str:
        return self.name

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the tensors that it takes."""
        return REGISTRY[self.name].inputs

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of those that may have a gradient."""
        return tuple(name for name in self.tensors if name not in CONSTANTS)

    @property
    def every(self) -> dict[str, tuple[Any, ...]]:
        """All choices: the words that the operator declares, and those above."""
        words = {name: tuple(x) for name, x in REGISTRY[self.name].choices.items()}
        return {**words, **self.choices}

    @property
    def takes_image(self) -> bool:
        """Whether it takes an image with a field, which may be float32 where the image is half."""
        return "image" in self.tensors and len(self.tensors) > 1

    def given(self, options: Options) -> list[str]:
        """The names of the tensors that these options go with."""
        return [name for name in self.tensors if options.get(name, True)]

    def inputs(
        self, sizes: Sizes, options: Options, dtype: torch.dtype, field: Any = None, **shape: int
    ) -> Tensors:
        """Tensors of the dtype, or those that are no image of another."""
        made = Maker(sizes, **{"channels": self.channels, **shape})
        inputs = {name: MAKERS[self.makers.get(name, name)](made) for name in self.given(options)}
        return {k: x.to(dtype if k == "image" else field or dtype) for k, x in inputs.items()}

    def leaves(self, inputs: Tensors, **how: Any) -> Tensors:
        """Copies, which require a gradient where they may have one; ``how`` is that of to()."""
        copies = {name: x.detach().to(copy=True, **how) for name, x in inputs.items()}
        return {name: x.requires_grad_(name not in CONSTANTS) for name, x in copies.items()}

    def result_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Of the result of tensors of a dtype."""
        if not self.differentiable:
            return torch.float64
        return torch.float32 if self.accumulated and dtype in HALF else dtype

    def options(self, variant: Options, sizes: Sizes, dtype: torch.dtype) -> Options:
        """The choices but for tensors, and the other options."""
        chosen = {k: v for k, v in variant.items() if k not in self.tensors}
        return {**chosen, **self.extra(sizes, dtype)}

    def __call__(self, inputs: Tensors, options: Options, backend: str) -> Tensor:
        """Calls the public function."""
        return self.result(self.function(**inputs, **options, backend=backend))

    def twice(self, options: Options) -> bool:
        """Whether its gradient can be differentiated."""
        return self.differentiable > 1 and options.get("mode") not in ("cubic", "bspline")

    def tangent(self, options: Options) -> bool:
        """Whether it has a forward mode."""
        return self.forward_mode and self.twice(options)


@functools.cache
def variants(name: str, strength: int = 3, seed: int = 0) -> list[Options]:
    """Choices of an operator: any ``strength`` values of different options meet in one of them."""
    choices = OPERATORS[name].every
    strength = min(strength, len(choices))
    every = [dict(zip(choices, x, strict=True)) for x in itertools.product(*choices.values())]
    random.Random(seed).shuffle(every)

    def meetings(variant: Options) -> set[tuple[Any, ...]]:
        return set(itertools.combinations(variant.items(), strength))

    missing = set().union(*map(meetings, every))
    found = []
    while missing:
        found.append(max(every, key=lambda variant: len(missing & meetings(variant))))
        missing -= meetings(found[-1])
    return found


_FLOW = {"steps": (0, 1, 4), "checkpoint": ("store", "recompute")}


def _exponential(
    velocity: Tensor, steps: int, method: str, padding: str, inverse: bool, checkpoint: str
) -> Tensor:
    signs = (1, -1) if inverse else (1,)
    return torch.cat(
        [reference.exponential(sign * velocity, steps, method, padding) for sign in signs], 1
    )


def _folding(displacement: Tensor, scheme: str, region: str, spacing: Any) -> Tensor:
    found = reference.folding(displacement, scheme, region == "interior", spacing)
    folds, count, *others = found.unbind(1)
    return torch.stack([folds, folds / count, *others], 1)


def _statistics(found: plasticine.ops.Folding) -> Tensor:
    values = (found.folds, found.fraction, found.minimum, found.maximum)
    others = (found.sd_log_jacobian, found.non_diffeomorphic_volume)
    return torch.stack([x.double() for x in (*values, *others)], 1)


def _gaussian_smooth(images: Tensor, sigma: Any, backend: str) -> Tensor:
    widths = sigma[: images.ndim - 2] if isinstance(sigma, tuple) else sigma
    return plasticine.gaussian_smooth(images, widths, backend=backend)


_SAMPLED = {"affine": (False, True), "prefilter": (True, False)}

OPERATORS = {
    operator.name: operator
    for operator in (
        Operator("warp", plasticine.warp, reference.warp, choices=_SAMPLED, forward_mode=True),
        Operator(
            "splat",
            plasticine.splat,
            reference.splat,
            makers={"image": "pushed"},
            choices=_SAMPLED,
            extra=lambda sizes, dtype: {"size": sizes[0]},
            differentiable=1,
        ),
        Operator("compose", plasticine.compose, reference.compose, forward_mode=True),
        Operator(
            "exponential",
            plasticine.exponential,
            _exponential,
            choices={**_FLOW, "inverse": (False, True)},
            result=lambda result: torch.cat(result, 1) if isinstance(result, tuple) else result,
            kinks=True,
        ),
        Operator(
            "warp_exponential",
            plasticine.warp_exponential,
            lambda checkpoint, **arguments: reference.warp_exponential(**arguments),
            choices=_FLOW,
            kinks=True,
        ),
        Operator(
            "jacobian",
            plasticine.jacobian_determinant,
            reference.jacobian_determinant,
            makers={"displacement": "rough"},
            extra=lambda sizes, dtype: {"spacing": SPACING[: len(sizes[1])]},
            forward_mode=True,
        ),
        Operator(
            "folding",
            plasticine.folding,
            _folding,
            makers={"displacement": "rough"},
            extra=lambda sizes, dtype: {"spacing": SPACING[: len(sizes[1])]},
            result=_statistics,
            differentiable=0,
            rounding=dict.fromkeys(ROUNDING, 1e-5) | {torch.float64: 1e-9},
        ),
        Operator(
            "jacobian_penalty",
            plasticine.jacobian_penalty,
            reference.jacobian_penalty,
            makers={"u": "rough"},
            extra=lambda sizes, dtype: {
                "threshold": 0.3,
                "spacing": SPACING[: len(sizes[1])],
            },
            accumulated=True,
            forward_mode=True,
        ),
        Operator(
            "smoothness",
            plasticine.smoothness,
            reference.smoothness,
            choices={"order": (1, 2)},
            extra=lambda sizes, dtype: {"spacing": SPACING[: len(sizes[1])]},
            accumulated=True,
            forward_mode=True,
        ),
        Operator(
            "joint_histogram",
            plasticine.joint_histogram,
            reference.joint_histogram,
            choices={"mask": (False, True), "bins": (8, 13), "sigma": (0.5, 0.8)},
            accumulated=True,
            forward_mode=True,
        ),
        Operator(
            "lncc",
            plasticine.lncc,
            reference.lncc,
            choices={"window": (3, 5, 9), "mask": (False, True), "squared": (True, False)},
            accumulated=True,
            forward_mode=True,
            gradient_rounding=ROUNDING | {torch.float64: 1e-11, torch.float32: 1e-4},
        ),
        Operator(
            "mind_distance",
            plasticine.mind_distance,
            reference.mind_distance,
            choices={"mask": (False, True), "dilations": ((1, 2), (2,)), "sigma": (0.8, 0.3)},
            channels=2,  # taken one by one
            accumulated=True,
            differentiable=1,
            local=False,  # all voxels know of the mean variance
        ),
        Operator(
            "spline_coefficients",
            plasticine.spline_coefficients,
            reference.spline_coefficients,
            forward_mode=True,
            rounding=ROUNDING | {torch.float32: 2e-6},
        ),
        Operator(
            "gaussian_smooth",
            _gaussian_smooth,
            reference.gaussian_smooth,
            # Windows longer than some axes, of one voxel on either side, and none.
            choices={"sigma": (1.2, (0.4, 2.0, 0.0))},
            forward_mode=True,
            rounding=ROUNDING | {torch.float32: 2e-6},
        ),
        Operator(
            "invert",
            plasticine.invert,
            lambda displacement, padding, **_: reference.invert(displacement, 1e-13, 1000, padding)[
                0
            ],
            makers={"displacement": "invertible"},
            extra=lambda sizes, dtype: {
                "tolerance": 1e-12 if dtype == torch.float64 else 1e-5,
                "iterations": 1000,
            },
            result=lambda result: result.displacement,
            differentiable=1,
            # The tolerance's.
            rounding={torch.float64: 2e-10, torch.float32: 1e-4}
            | {dtype: 4 * ROUNDING[dtype] for dtype in HALF},
            gradient_rounding={torch.float64: 1e-8, torch.float32: 1e-4}
            | {dtype: 4 * ROUNDING[dtype] for dtype in HALF},
            local=False,
        ),
    )
}


def gradients(result: Tensor, inputs: Tensors, grad: Tensor) -> Tensors:
    """Those of the inputs that require one; zeros where the result does not depend on one."""
    wanted = {name: x for name, x in inputs.items() if x.requires_grad}
    if not (wanted and result.requires_grad):
        return {name: torch.zeros_like(x) for name, x in wanted.items()}
    found = torch.autograd.grad(result, list(wanted.values()), grad, materialize_grads=True)
    return dict(zip(wanted, found, strict=True))


def random_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Random numbers in a tensor's shape, on the CPU."""
    made = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return made.to(dtype or x.dtype)


def set_worst_aside(actual: Tensor, expected: Tensor) -> None:
    """Sets one of 500 elements to zero in both: those that differ most."""
    difference = (actual.double().cpu() - expected).abs().flatten()
    worst = difference.topk(len(difference) // 500).indices
    for x in (actual, expected):
        x.view(-1)[worst.to(x.device)] = 0
