"""One operator beside its peers: who takes part, on what, and what each must have computed."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from plasticine import backends

DIRECTIONS = ("forward", "forward_and_backward")
# Largest difference from the reference that a contender may have, where the largest value is 1.
TOLERANCE = {
    torch.float64: 1e-6,
    torch.float32: 1e-3,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}

# The reference takes minutes for the gradients of more: they are checked on the smaller cases.
MOST_VOXELS_OF_GRADIENTS = 64**3


@dataclass(frozen=True)
class Case:
    """Sizes and dtype of one measurement.

    Attributes:
        spatial: the size of image and field, voxels.
        batch: samples.
        dtype: of all tensors.
        displacement: "smooth" (random, up to 16 voxels) or "small" (the same below 1 voxel).
        large: run with ``--large`` only.
        device: "cpu" or "cuda": the device whose sizes these are.
    """

    spatial: tuple[int, ...]
    batch: int = 1
    dtype: torch.dtype = torch.float32
    displacement: str = "smooth"
    large: bool = False
    device: str = "cpu"

    @property
    def on_gpu(self) -> bool:
        """Whether this is one of the GPU's cases, in float32."""
        return self.device == "cuda" and self.dtype == torch.float32

    @property
    def place(self) -> torch.device:
        """Where the definition is computed for it."""
        on_gpu = self.device == "cuda" and torch.cuda.is_available()
        return torch.device("cuda" if on_gpu else "cpu")

    @property
    def ndim(self) -> int:
        return len(self.spatial)

    @property
    def voxels(self) -> int:
        return self.batch * torch.Size(self.spatial).numel()

    @property
    def element_bytes(self) -> int:
        return torch.finfo(self.dtype).bits // 8

    def __str__(self) -> str:
        size = "x".join(str(n) for n in self.spatial)
        dtype = str(self.dtype).removeprefix("torch.")
        small = "-small" if self.displacement == "small" else ""
        return f"{self.ndim}d-{size}-batch-{self.batch}-{dtype}{small}"

    def tiny(self) -> Case:
        """The same kind of case, small enough to only see that it runs."""
        return replace(
            self, spatial=tuple(12 + axis for axis in range(self.ndim)), batch=min(self.batch, 2)
        )

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(20261122)

    def image(self) -> Tensor:
        """Uniform noise in [0, 1), ``(batch, 1, *spatial)`` float32."""
        return torch.rand(self.batch, 1, *self.spatial, generator=self.generator())

    def field(self) -> Tensor:
        """A smooth displacement of a few voxels, ``(batch, d, *spatial)`` float32."""
        shape = (self.batch, self.ndim, *[5] * self.ndim)
        coarse = torch.randn(shape, generator=self.generator())
        mode = "bilinear" if self.ndim == 2 else "trilinear"
        smooth = F.interpolate(coarse, self.spatial, mode=mode, align_corners=True)
        if self.displacement == "small":
            return smooth * (0.9 / smooth.abs().max())
        return smooth * min(4.0, min(self.spatial) / 16)


SMALLEST_2D = Case((128, 128))
SINGLE_2D = Case((256, 256))
BATCH_2D = Case((256, 256), batch=16)
MEDIUM_3D = Case((64, 64, 64))
FULL_3D = Case((128, 128, 128))
LARGE_3D = Case((160, 192, 224), large=True)
SIZES = (SMALLEST_2D, SINGLE_2D, BATCH_2D, MEDIUM_3D, FULL_3D, LARGE_3D)
HALF_DTYPES = (torch.float16, torch.bfloat16)


def with_dtypes(*cases: Case, dtypes: Sequence[torch.dtype]) -> tuple[Case, ...]:
    """Each case in each dtype."""
    return tuple(replace(case, dtype=dtype) for case in cases for dtype in dtypes)


# The smallest is for the cost of a launch; the others fill a GPU.
GPU_SMALLEST_2D = Case((128, 128), device="cuda")
GPU_BATCH_2D = Case((256, 256), batch=16, device="cuda")
GPU_FULL_3D = Case((160, 192, 224), device="cuda")
GPU_SIZES = (
    GPU_SMALLEST_2D,
    *with_dtypes(
        GPU_BATCH_2D,
        Case((512, 512), batch=64, device="cuda"),
        GPU_FULL_3D,
        Case((256, 256, 256), device="cuda"),
        dtypes=(torch.float32, torch.bfloat16),
    ),
)


def as_tuple(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


def stacked(results: Any) -> Tensor:
    """Several results of one shape as one tensor; one as it is."""
    return torch.stack(results) if isinstance(results, tuple) else results


def cotangent(result: Tensor) -> Tensor:
    """What the backward pass is given: noise, as ones hide what a sum does not see."""
    generator = torch.Generator().manual_seed(20261123)
    return torch.rand(result.shape, generator=generator).to(result)


@dataclass(frozen=True)
class Prepared:
    """A contender that is ready to be timed.

    Attributes:
        call: what is timed; takes ``inputs``, returns a result of its own kind.
        inputs: the operator's inputs in the contender's own convention, which are prepared outside
            the time; None for the operator's own.
        result: the contender's result in the operator's convention as one tensor, for the check.
    """

    call: Callable[..., Any]
    inputs: tuple[Any, ...] | None = None
    result: Callable[[Any], Tensor] = field(default=stacked)


@dataclass(frozen=True)
class Contender:
    """Who takes part.

    Attributes:
        name: as it stands in the tables.
        prepare: takes the case and the inputs. Skips with the reason where it cannot take part.
        joins: whether a case and a direction are worth its time.
        margin: voxels at the border that are not compared, where its boundary is another one.
        tolerance: instead of the dtype's, where its rounding is known to be coarser.
        check: instead of the comparison with the reference; takes the case and the result, raises
            AssertionError, and returns what to record of it, by name.
        floor: instead of the operator's, for another way to compute it; takes the case and whether
            the backward pass is included.
        device: the only type of device that it runs on.
    """

    name: str
    prepare: Callable[..., Prepared]
    joins: Callable[[Case, str], bool] = lambda case, direction: True
    margin: int = 0
    tolerance: float | None = None
    check: Callable[[Case, Tensor], dict[str, float]] | None = None
    floor: Callable[[Case, bool], float] | None = None
    device: str | None = None


@dataclass(frozen=True)
class Contest:
    """One operator, its definition, and all who compute it.

    Attributes:
        operator: its name.
        inputs: the tensors of a case, float32.
        expected: the definition, of these tensors.
        floor: bytes that must move, in elements per voxel, by the number of axes and whether the
            backward pass is included: each input read once and each output written once; a
            scattered gradient is zeroed, read and written.
        contenders: peers first: ours state their ratio to those before them.
        cases: what is measured on a CPU.
        gpu_cases: what is measured on a GPU.
        directions: "forward" and, where it differentiates, "forward_and_backward".
    """

    operator: str
    inputs: Callable[[Case], tuple[Tensor, ...]]
    expected: Callable[..., Any]
    floor: Callable[[int, bool], float]
    contenders: tuple[Contender, ...]
    cases: tuple[Case, ...] = SIZES
    gpu_cases: tuple[Case, ...] = GPU_SIZES
    directions: tuple[str, ...] = DIRECTIONS

    def entries(self) -> list[Any]:
        """Every measurement as a parameter of a test; those to compare follow each other."""
        return [
            pytest.param(
                case,
                direction,
                contender,
                id=f"{case.device}-{case}-{direction}-{contender.name}",
            )
            for case in (*self.cases, *self.gpu_cases)
            for direction in self.directions
            for contender in self.contenders
            if contender.joins(case, direction)
        ]

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a contest lives as long as the run
    def expectation(self, case: Case, needs_gradient: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The definition's result of a case, and its gradients where they are asked for."""
        exact = torch.promote_types(case.dtype, torch.float32)
        inputs = tuple(x.to(case.place, case.dtype).to(exact) for x in self.inputs(case))
        if not needs_gradient:
            return stacked(self.expected(*inputs)), ()
        leaves = tuple(x.requires_grad_() for x in inputs)
        results = as_tuple(self.expected(*leaves))
        cotangents = [cotangent(x) for x in results]
        # Of what a result does not depend on, zeros.
        gradients = torch.autograd.grad(results, leaves, cotangents, materialize_grads=True)
        return stacked(results).detach(), gradients


def same(function: Callable[..., Any]) -> Callable[..., Prepared]:
    """Prepares a contender that takes the operator's inputs as they are."""
    return lambda case, *inputs: Prepared(function)


def ours(
    operator: str,
    function: Callable[..., Any],
    suffix: str = "",
    *,
    for_case: Callable[[Case], dict[str, Any]] = lambda case: {},
    **options: Any,
) -> tuple[Contender, ...]:
    """Every backend of ours that could serve an operator, under ``plasticine_<backend><suffix>``.

    Args:
        operator: the name in ``plasticine.ops.REGISTRY``.
        function: takes the inputs and ``backend=``.
        suffix: tells another way to call it.
        for_case: further arguments of ``function`` that depend on the case.
        options: of :class:`Contender`.
    """

    def contender(backend: str) -> Contender:
        def prepare(case: Case, *inputs: Tensor) -> Prepared:
            reason = backends.unsuited(backend, operator, inputs[0].device.type)
            if reason is not None:
                pytest.skip(reason)
            return Prepared(functools.partial(function, backend=backend, **for_case(case)))

        device = "cpu" if backend == "cpu" else "cuda"
        return Contender(f"plasticine_{backend}{suffix}", prepare, device=device, **options)

    return tuple(contender(name) for name in backends.BACKENDS if name != "reference")


def in_float32(case: Case, direction: str) -> bool:
    return case.dtype == torch.float32


def forward_in_float32(case: Case, direction: str) -> bool:
    return case.dtype == torch.float32 and direction == "forward"


def without_long_waits(case: Case, direction: str) -> bool:
    """Seconds a call at 128³ with gradients: where one peer is enough to show it."""
    is_long = case.voxels >= FULL_3D.voxels and direction == "forward_and_backward"
    return in_float32(case, direction) and case.displacement == "smooth" and not is_long


def forward_of_one(case: Case, direction: str) -> bool:
    """Where a slow peer without gradients and without batches is worth its time."""
    return direction == "forward" and case in (MEDIUM_3D, FULL_3D)


def compiled(
    function: Callable[..., Any], case: Case | None = None, directions: Sequence[str] = DIRECTIONS
) -> Contender:
    """``torch.compile`` of our reference: it takes half a minute for each case.

    Args:
        function: the reference.
        case: the one on a CPU; None for none. On a GPU there are two.
        directions: those on a CPU; on a GPU all.
    """

    def prepare(_: Case, *inputs: Tensor) -> Prepared:
        torch.compiler.reset()  # or the ninth size would silently run uncompiled
        return Prepared(torch.compile(function, dynamic=False))

    def joins(other: Case, direction: str) -> bool:
        if other.device == "cuda":
            return other in (GPU_BATCH_2D, GPU_FULL_3D)
        return other == case and direction in directions

    return Contender("compiled_reference", prepare, joins)


def peer(module: str) -> Any:
    """A module of a peer, or a skip with the reason why it is absent."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        pytest.skip(f"{module.split('.')[0]} is absent: {error}")


def check_result(
    contest: Contest, contender: Contender, case: Case, result: Tensor
) -> dict[str, float]:
    """Raises unless the result is the definition's; returns what to record of it."""
    if contender.check is not None:
        return contender.check(case, result.detach())
    expected = contest.expectation(case, False)[0]
    found = result.detach().to(expected)
    assert found.shape == expected.shape, f"{contender.name} gives {tuple(found.shape)}"
    if contender.margin:
        inner = (..., *[slice(contender.margin, -contender.margin)] * case.ndim)
        found, expected = found[inner], expected[inner]
    difference = (found - expected).abs().max().item()
    allowed = contender.tolerance or TOLERANCE[case.dtype]
    allowed *= max(1.0, expected.abs().max().item())
    assert difference <= allowed, (
        f"{contender.name} differs from the reference by {difference:.3g}; {allowed:.3g} is allowed"
    )
    return {"largest_difference": difference}


def checks_gradients(case: Case) -> bool:
    return case.element_bytes >= 4 and case.voxels <= MOST_VOXELS_OF_GRADIENTS


def check_gradients(
    contest: Contest, contender: Contender, case: Case, gradients: Sequence[Tensor]
) -> None:
    """Raises unless the gradients are the definition's, as a whole: single voxels lie on kinks."""
    if contender.check is not None or not checks_gradients(case):
        return
    for found, expected in zip(gradients, contest.expectation(case, True)[1], strict=True):
        error, whole = (found.to(expected) - expected).norm().item(), expected.norm().item()
        assert error <= 0.02 * whole, (
            f"{contender.name}'s gradient of {whole:.3g} differs by {error:.3g}"
        )
