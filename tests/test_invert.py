"""plasticine.invert against exact inverses, its own equation, SimpleITK, and at its edges."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comparison import PADDINGS
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.nn import Invert
from plasticine.ops._kernels import SHARED_SIZE

OPERATOR = "invert"

ROUNDING = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}
# Odd, rows shorter and longer than a block, axes of length 1.
SIZES = {
    "2d": (11, 9),
    "2d-long": (7, 150),
    "2d-thin": (1, 9),
    "2d-column": (17, 1),
    "3d": (7, 8, 9),
    "3d-long": (3, 9, 67),
    "3d-thin": (4, 1, 6),
}


def smooth_field(
    generator: torch.Generator,
    size: tuple[int, ...],
    *,
    batch: int = 2,
    largest: float = 1.5,
    spacing: int = 6,
) -> Tensor:
    """A float64 displacement from a node every `spacing` voxels, of at most `largest` voxels.

    Neighbours differ by 0.25 at most, so that all eigenvalues of its gradient are below 1: it does
    not fold, and the fixed-point iteration converges.
    """
    ndim = len(size)
    nodes = [max(n // spacing + 2, 2) for n in size]
    values = torch.randn(batch, ndim, *nodes, generator=generator, dtype=torch.float64)
    mode = "bilinear" if ndim == 2 else "trilinear"
    field = F.interpolate(values, size, mode=mode, align_corners=True)
    steepest = max(
        field.diff(dim=axis).abs().amax().item()
        for axis in range(2, ndim + 2)
        if field.shape[axis] > 1
    )
    return field * min(largest / field.abs().amax().item(), 0.25 / steepest)


def residual_norm(u: Tensor, w: Tensor, padding: str = "border") -> Tensor:
    """|w(p) + u(p + w(p))| in float64: ``(N, *spatial)``."""
    u, w = u.detach().double().cpu(), w.detach().double().cpu()
    return (w + reference.warp(u, w, None, "linear", padding)).norm(dim=1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_solves_its_equation(served, generator, size, dtype):
    """Within the tolerance in every voxel, every padding, and says so."""
    smooth = smooth_field(generator, SIZES[size])
    tolerance = 1e-3
    for padding in PADDINGS:
        # "zeros" is a cliff at the border, over which more than a voxel would fold.
        field = (smooth * (0.3 if padding == "zeros" else 1)).to(dtype)
        u = field.to(served.device)
        inverse = plasticine.invert(u, tolerance=tolerance, padding=padding, backend=served.backend)
        w = inverse.displacement
        assert w.dtype == dtype
        assert w.shape == u.shape
        assert w.is_contiguous()
        assert inverse.residual.dtype == torch.promote_types(dtype, torch.float32)
        assert inverse.converged.tolist() == [True, True]
        residual = residual_norm(field, w, padding).flatten(1).amax(1)
        # A half type's rounding of w comes on top, and float32's of the coordinates.
        slack = ROUNDING[dtype] * 4 if dtype.itemsize < 4 else 3e-5
        assert (residual <= tolerance + slack).all()
        if dtype.itemsize >= 4:
            torch.testing.assert_close(
                inverse.residual.double().cpu(), residual, rtol=1e-3, atol=slack
            )


def test_a_shift_is_undone_by_its_opposite(served):
    for size in ((6, 7), (5, 6, 7)):
        u = torch.full((1, len(size), *size), 2.25, dtype=torch.float64, device=served.device)
        inverse = plasticine.invert(u, tolerance=0, backend=served.backend)
        assert torch.equal(inverse.displacement, -u)
        assert inverse.residual.tolist() == [0]
        assert inverse.iterations.tolist() == [0]


def test_an_affine_map_is_undone_by_its_inverse(served):
    """Where the inverse stays inside the grid: outside, the field is no longer affine."""
    size = (24, 26)
    positions = torch.stack(
        torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in size], indexing="ij")
    )
    matrix = torch.tensor([[1.2, 0.3], [-0.25, 0.9]], dtype=torch.float64)
    centre = torch.tensor([12.0, 12.5], dtype=torch.float64)
    offset = (positions.movedim(0, -1) - centre) @ matrix.T + centre
    u = (offset.movedim(-1, 0) - positions)[None].to(served.device)
    back = (positions.movedim(0, -1) - centre) @ matrix.inverse().T + centre
    expected = (back.movedim(-1, 0) - positions)[None]
    inverse = plasticine.invert(u, tolerance=1e-12, iterations=500, backend=served.backend)
    landing = (positions + expected[0]).movedim(0, -1)
    inside = ((landing >= 0) & (landing <= torch.tensor(size) - 1)).all(-1)
    assert inside.float().mean() > 0.5
    difference = (inverse.displacement.cpu() - expected)[0].abs().amax(0)
    assert difference[inside].max() < 1e-10


def test_the_exponential_of_minus_v(served, generator):
    """exp(-v) inverts exp(v) but for the error of the squarings, which is a few hundredths."""
    velocity = smooth_field(generator, (40, 44), largest=2.0, spacing=12).to(served.device)
    forward, backward = plasticine.exponential(velocity, inverse=True, backend="reference")
    inverse = plasticine.invert(forward, backend=served.backend)
    inner = (..., slice(4, -4), slice(4, -4))
    assert (inverse.displacement - backward)[inner].abs().max() < 0.05


def test_composition_with_the_inverse_is_the_identity(served, generator):
    u = smooth_field(generator, SIZES["3d-long"]).to(served.device)
    w = plasticine.invert(u, tolerance=1e-9, iterations=300, backend=served.backend).displacement
    assert plasticine.compose(u, w, backend="reference").abs().max() <= 1e-9


def test_as_good_as_simpleitk(served, generator):
    """The same inverse where the border does not matter, at no larger a residual."""
    sitk = pytest.importorskip("SimpleITK")
    size = (24, 28, 30)
    field = smooth_field(generator, size, batch=1, largest=2.0, spacing=9).float()
    vectors = np.ascontiguousarray(field[0].flip(0).movedim(0, -1).numpy())
    image = sitk.GetImageFromArray(vectors, isVector=True)
    theirs = sitk.InvertDisplacementField(
        image, maximumNumberOfIterations=20, meanErrorToleranceThreshold=1e-5
    )
    theirs = torch.from_numpy(sitk.GetArrayFromImage(theirs)).movedim(-1, 0).flip(0)[None]
    inner = (..., slice(5, -5), slice(5, -5), slice(5, -5))
    largest = residual_norm(field, theirs)[inner].max().item()
    assert largest < 1e-3
    inverse = plasticine.invert(
        field.to(served.device), tolerance=max(largest, 1e-5), backend=served.backend
    )
    assert inverse.converged.all()
    assert (inverse.displacement.cpu() - theirs)[inner].abs().max() < 3e-3


def test_a_tighter_tolerance_takes_more_iterations(served, generator):
    u = smooth_field(generator, SIZES["2d-long"]).to(served.device)
    steps = []
    for tolerance in (1e-1, 1e-4, 1e-9):
        inverse = plasticine.invert(u, tolerance=tolerance, iterations=500, backend=served.backend)
        assert (inverse.residual <= tolerance).all()
        steps.append(inverse.iterations.max().item())
    assert steps == sorted(steps)
    assert steps[0] < steps[2]


def test_iterations_are_the_most_that_are_taken(served, generator):
    u = smooth_field(generator, SIZES["2d"]).to(served.device)
    for limit in (0, 1):
        with pytest.warns(RuntimeWarning, match=r"a residual of .* voxels is left after"):
            inverse = plasticine.invert(u, tolerance=1e-9, iterations=limit, backend=served.backend)
        assert inverse.iterations.tolist() == [limit, limit]
        residual = residual_norm(u, inverse.displacement).flatten(1).amax(1)
        torch.testing.assert_close(inverse.residual.cpu(), residual)


def test_a_fold_is_not_silent(served, generator):
    """White noise of several voxels: within few iterations no inverse is found everywhere."""
    u = torch.randn(2, 2, 30, 30, generator=generator).mul(4).to(served.device)
    assert (plasticine.folding(u).folds > 0).all()
    with pytest.warns(RuntimeWarning, match=r"the displacement may fold"):
        inverse = plasticine.invert(u, iterations=5, backend=served.backend)
    assert not inverse.converged.any()
    assert inverse.displacement.isfinite().all()
    residual = residual_norm(u, inverse.displacement).flatten(1).amax(1)
    torch.testing.assert_close(inverse.residual.double().cpu(), residual, rtol=1e-4, atol=1e-4)


def test_newton_inverts_where_the_fixed_point_would_not(native):
    """A stretch of three: the fixed-point iteration doubles its error at every step."""
    u = torch.zeros(1, 2, 40, 6, dtype=torch.float64)
    u[:, 0] = 2 * (torch.arange(40.0, dtype=torch.float64) - 20)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inverse = plasticine.invert(u, tolerance=1e-10, iterations=20, backend="cpu")
    assert inverse.iterations.max() < 5


@pytest.mark.parametrize("padding", PADDINGS)
def test_nan_stays_where_it_is_met(served, generator, padding):
    u = smooth_field(generator, SIZES["2d-long"], largest=0.9)
    expected = reference.invert(u, 1e-6, 1000, padding)[0]
    u[0, 1, 3, 40] = math.nan
    with pytest.warns(RuntimeWarning, match="the search met NaN or infinity"):
        inverse = plasticine.invert(
            u.to(served.device), tolerance=1e-6, padding=padding, backend=served.backend
        )
    w = inverse.displacement.cpu()
    assert inverse.residual.isnan().tolist() == [True, False]
    assert inverse.converged.tolist() == [False, True]
    undefined = w.isnan().any(1)
    assert undefined[0].any()
    assert torch.equal(undefined, w.isnan().all(1))
    # A start or a step may look at u up to a voxel from where it ends.
    near = torch.zeros_like(undefined)
    near[0, :, 37:44] = True
    assert not undefined[~near].any()
    defined = ~undefined[:, None].expand_as(w)
    torch.testing.assert_close(w[defined], expected[defined], rtol=0, atol=1e-5)


def test_all_nan_and_infinity_end(served):
    for value in (math.nan, math.inf, -math.inf, 1e30):
        u = torch.full((1, 3, 4, 5, 6), value, device=served.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inverse = plasticine.invert(u, iterations=10**6, backend=served.backend)
        assert inverse.displacement.isnan().all() == (not math.isfinite(value))
        assert inverse.iterations.max() < 10


@pytest.mark.parametrize("shape", [(0, 2, 4, 5), (2, 2, 0, 5), (1, 3, 3, 4, 0)])
def test_empty_tensors(served, shape):
    u = torch.ones(shape, device=served.device, requires_grad=True)
    inverse = plasticine.invert(u, backend=served.backend)
    assert inverse.displacement.shape == shape
    assert inverse.residual.tolist() == [0] * shape[0]
    assert inverse.converged.all()
    inverse.displacement.sum().backward()
    assert torch.equal(u.grad, torch.zeros_like(u))


def test_only_the_displacement_has_a_gradient(served, generator):
    u = smooth_field(generator, SIZES["2d"]).to(served.device).requires_grad_()
    inverse = plasticine.invert(u, backend=served.backend)
    assert inverse.displacement.requires_grad
    assert not inverse.residual.requires_grad
    assert not inverse.iterations.requires_grad
    assert inverse.iterations.dtype == torch.int64


def test_the_same_bits_for_any_number_of_threads(native, generator):
    u = smooth_field(generator, (26, 31, 37), batch=1).float().requires_grad_()
    assert u.numel() >= SHARED_SIZE
    runs = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            inverse = plasticine.invert(u, backend="cpu")
            (grad,) = torch.autograd.grad(inverse.displacement.square().sum(), u)
            runs.append((inverse.displacement, inverse.residual, inverse.iterations, grad))
        finally:
            torch.set_num_threads(before)
    for other in runs[1:]:
        for x, y in zip(runs[0], other, strict=True):
            assert torch.equal(x, y)


def test_the_module(served, generator):
    u = smooth_field(generator, SIZES["2d"]).to(served.device)
    module = Invert(tolerance=1e-2, padding="reflection", backend=served.backend)
    expected = plasticine.invert(u, tolerance=1e-2, padding="reflection", backend=served.backend)
    assert torch.equal(module(u).displacement, expected.displacement)
    assert module(u).tolerance == 1e-2
    assert "tolerance=0.01, iterations=100, padding='reflection'" in repr(module)
    with pytest.raises(ValueError, match="padding must be one of"):
        Invert(padding="wrap")


FIELD = torch.zeros(2, 2, 4, 5)


@pytest.mark.parametrize(
    ("argument", "options", "error", "message"),
    [
        (FIELD, {"tolerance": "small"}, TypeError, "tolerance must be a number, got str"),
        (FIELD, {"tolerance": -1.0}, ValueError, "tolerance must be finite, 0 or more, got -1"),
        (FIELD, {"tolerance": math.nan}, ValueError, "tolerance must be finite, 0 or more"),
        (FIELD, {"iterations": 2.5}, TypeError, "iterations must be an int, got float"),
        (FIELD, {"iterations": -1}, ValueError, "iterations must be 0 or more, got -1"),
    ],
)
def test_refused_inputs(argument, options, error, message):
    with pytest.raises(error, match=message):
        plasticine.invert(argument, **options)
