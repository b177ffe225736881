"""The drop-ins of torch-interpol's and MONAI's grid_pull, grid_push, grid_count and grid_grad."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticine import compat
from plasticine.compat import _grids, interpol, monai_grids
from plasticine.compat._bounds import BOUNDS

# One period of each bound, of the image "1 2 3 4", as both projects' documents draw it.
PERIODS = {
    "dct1": [1, 2, 3, 4, 3, 2],
    "dct2": [1, 2, 3, 4, 4, 3, 2, 1],
    "dst1": [1, 2, 3, 4, 0, -4, -3, -2, -1, 0],
    "dst2": [1, 2, 3, 4, -4, -3, -2, -1],
    "dft": [1, 2, 3, 4],
}
SIZES = {1: ((7,), (9,)), 2: ((7, 5), (6, 8)), 3: ((6, 5, 7), (4, 6, 5))}
MONAI_INTEGERS = {
    "replicate": 0,
    "dct1": 1,
    "dct2": 2,
    "dst1": 3,
    "dst2": 4,
    "dft": 5,
    "zero": 7,
}


def continued(bound: str, margin: int) -> list[int]:
    """The image "1 2 3 4" with ``margin`` voxels on either side."""
    places = range(-margin, 4 + margin)
    if bound == "zero":
        return [place + 1 if 0 <= place < 4 else 0 for place in places]
    if bound == "replicate":
        return [min(max(place, 0), 3) + 1 for place in places]
    period = PERIODS[bound]
    return [period[place % len(period)] for place in places]


def inputs(
    ndim: int, generator: torch.Generator, reach: float = 12.0, *, channels: int = 3
) -> tuple[Tensor, Tensor]:
    """An image, and a grid that reaches outside of it by so many voxels, in float64."""
    size, spatial = SIZES[ndim]
    image = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)
    grid = torch.rand(2, *spatial, ndim, generator=generator, dtype=torch.float64)
    return image, grid * (size[0] + 2 * reach) - reach


def identity(size: tuple[int, ...]) -> Tensor:
    """The identity's grid, in float64."""
    axes = [torch.arange(n, dtype=torch.float64) for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def everything(
    library: Any, image: Tensor, grid: Tensor, order: Any, bound: Any, extrapolate: Any
) -> dict[str, Tensor]:
    """What a library computes, with the gradients of fixed weights of it."""
    ndim, size = grid.shape[-1], image.shape[2:]
    image, grid = image.clone().requires_grad_(), grid.clone().requires_grad_()
    ramp = torch.linspace(-1, 1, grid[..., 0].numel() * image.shape[1], dtype=image.dtype)
    values = ramp.reshape(2, image.shape[1], *grid.shape[1:-1]).requires_grad_()
    options = order, bound, extrapolate
    calls = {
        "pull": (library.grid_pull(image, grid, *options), (image, grid)),
        "push": (library.grid_push(values, grid, size, *options), (values, grid)),
        "count": (library.grid_count(grid, size, *options), (grid,)),
        "grad": (library.grid_grad(image, grid, *options), (image, grid)),
    }
    found: dict[str, Tensor] = {}
    for name, (result, of) in calls.items():
        weights = torch.sin(torch.arange(result.numel(), dtype=image.dtype)).reshape(result.shape)
        found[name] = result.detach()
        if order == 0 and ndim == 1 and name == "grad":
            continue
        gradients = torch.autograd.grad((result * weights).sum(), of)
        for position, gradient in enumerate(gradients):
            found[f"{name}, gradient {position}"] = gradient
    with torch.no_grad():  # another way where nothing is recorded
        found["grad alone"] = library.grid_grad(image, grid, *options)
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-9) -> None:
    """All of both, by name."""
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(
            value,
            expected[name],
            atol=atol,
            rtol=1e-5,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    """torch-interpol."""
    return pytest.importorskip("interpol", reason="torch-interpol is not installed")


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("order", range(4))
def test_bounds_are_as_documented(bound: str, order: int):
    """A long image without a bound stands for a short one with it."""
    margin = 14
    line = torch.tensor(continued(bound, margin), dtype=torch.float64)
    image = torch.arange(1.0, 5.0, dtype=torch.float64)[None, None, :, None].expand(1, 1, 4, 3)
    # On centres, between them, and everywhere else, but not where an order's spline has a knot of
    # which it takes one side.
    x = torch.arange(-11.0, 15.0, 0.25, dtype=torch.float64) + 0.03125
    grid = torch.stack([x, torch.ones_like(x)], -1)[None, :, None]
    for library, integer in ((interpol, bound), (monai_grids, MONAI_INTEGERS[bound])):
        found = library.grid_pull(image, grid, [order, order], [integer, "dct1"], True)
        long = line[None, None, :, None].expand(1, 1, -1, 3)
        shifted = grid + torch.tensor([margin, 0.0], dtype=torch.float64)
        expected = library.grid_pull(long, shifted, [order, order], ["zero", "dct1"], True)
        torch.testing.assert_close(found, expected)
        slope = library.grid_grad(image, grid, order, [integer, "dct1"], True)[..., 0]
        expected = library.grid_grad(long, shifted, order, ["zero", "dct1"], True)[..., 0]
        torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("bound", [bound for bound in BOUNDS if bound != "dst1"])
@pytest.mark.parametrize(
    ("ndim", "order"),
    [*((2, order) for order in (0, 1, 2, 3, 5, 7)), (3, 1), (3, 2), (3, 3), (1, 4)],
)
def test_values_and_gradients_are_torch_interpols(
    peer: ModuleType, generator: torch.Generator, ndim: int, order: int, bound: str
):
    image, grid = inputs(ndim, generator)
    found = everything(interpol, image, grid, order, bound, True)
    assert_same(found, everything(peer, image, grid, order, bound, True))


@pytest.mark.parametrize("extrapolate", [False, 2])
@pytest.mark.parametrize("bound", ["zero", "dct2", "replicate"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_what_lies_outside_counts_as_torch_interpols(
    peer: ModuleType, generator: torch.Generator, ndim: int, bound: str, extrapolate: Any
):
    """Theirs fails with several channels in orders other than 1."""
    image, grid = inputs(ndim, generator, reach=1.5)
    found = everything(interpol, image, grid, 1, bound, extrapolate)
    assert_same(found, everything(peer, image, grid, 1, bound, extrapolate))
    for order in (0, 2, 3):
        values = interpol.grid_pull(image, grid, order, bound, extrapolate)
        margin = 0.05 if extrapolate is False else 0.55
        last = torch.tensor(image.shape[2:]) - 1 + margin
        outside = ((grid <= -margin) | (grid >= last)).any(-1)[:, None]
        everywhere = interpol.grid_pull(image, grid, order, bound, True)
        torch.testing.assert_close(values, torch.where(outside, 0.0, everywhere))


@pytest.mark.parametrize("bound", [bound for bound in BOUNDS if bound != "dst1"])
@pytest.mark.parametrize("order", [1, 3])
def test_gradients_on_voxels_centres_are_torch_interpols(
    peer: ModuleType, generator: torch.Generator, order: int, bound: str
):
    """The grid that every registration begins with has all of its coordinates there."""
    image = torch.randn(2, 1, 5, 6, generator=generator, dtype=torch.float64)
    grid = identity((5, 6)).expand(2, 5, 6, 2)
    found = everything(interpol, image, grid, order, bound, True)
    assert_same(found, everything(peer, image, grid, order, bound, True))


def test_orders_and_bounds_may_differ_between_axes(peer: ModuleType, generator: torch.Generator):
    image, grid = inputs(3, generator)
    options = [3, 2, 0], ["dct2", "zero", "dft"], True
    torch.testing.assert_close(
        interpol.grid_pull(image, grid, *options), peer.grid_pull(image, grid, *options)
    )
    options = "linear", ["dst2", "zero"], True  # the last stands for the rest
    found = everything(interpol, image, grid, *options)
    assert_same(found, everything(peer, image, grid, *options))


@pytest.mark.parametrize(
    ("image", "grid"),
    [
        ((7, 5), (4, 3, 2)),
        ((3, 7, 5), (4, 3, 2)),
        ((3, 7, 5), (2, 4, 3, 2)),
        ((2, 1, 3, 7, 5), (4, 4, 3, 2)),
        ((1, 3, 7, 5), (2, 4, 3, 2)),
        ((2, 7, 5, 6), (4, 3, 2, 3)),
    ],
)
def test_shapes_are_torch_interpols(
    peer: ModuleType, generator: torch.Generator, image: tuple[int, ...], grid: tuple[int, ...]
):
    x = torch.randn(image, generator=generator)
    places = torch.rand(grid, generator=generator) * 5
    for name in ("grid_pull", "grid_grad"):
        found = getattr(interpol, name)(x, places)
        expected = getattr(peer, name)(x, places)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(interpol.grid_count(places), peer.grid_count(places))
    ndim = grid[-1]
    values = torch.randn(*image[:-ndim], *grid[-ndim - 1 : -1], generator=generator)
    size = (8, 9, 4)[:ndim]
    torch.testing.assert_close(
        interpol.grid_push(values, places, size), peer.grid_push(values, places, size)
    )


def test_float32_and_half_types(peer: ModuleType, generator: torch.Generator):
    image, grid = (x.float() for x in inputs(3, generator))
    found = everything(interpol, image, grid, 1, "dct2", True)
    assert_same(found, everything(peer, image, grid, 1, "dct2", True), atol=1e-4)
    assert interpol.grid_pull(image.half(), grid).dtype == torch.float32  # of both the wider
    assert interpol.grid_pull(image.half(), grid.half(), 3, "dct1", True).dtype == torch.float16


@pytest.mark.parametrize("order", range(4))
def test_labels_are_torch_interpols(peer: ModuleType, generator: torch.Generator, order: int):
    labels = torch.randint(0, 4, (2, 1, 7, 5), generator=generator)
    grid = torch.rand(2, 9, 8, 2, generator=generator) * 7 - 0.5
    found = interpol.grid_pull(labels, grid, order, "dct2", True)
    torch.testing.assert_close(found, peer.grid_pull(labels, grid, order, "dct2", True))


@pytest.mark.parametrize("bound", ["dct1", "dct2", "dft"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_prefilter_is_torch_interpols(
    peer: ModuleType, generator: torch.Generator, order: int, bound: str
):
    image, grid = inputs(2, generator, reach=2.0)
    for name in ("grid_pull", "grid_grad"):
        found = getattr(interpol, name)(image, grid, order, bound, True, True)
        expected = getattr(peer, name)(image, grid, order, bound, True, True)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    values = torch.randn(2, 3, 6, 8, generator=generator, dtype=torch.float64)
    found = interpol.grid_push(values, grid, (9, 7), order, bound, True, True)
    expected = peer.grid_push(values, grid, (9, 7), order, bound, True, True)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("order", [0, 1, 2, 3, [1, 2]])
def test_push_is_the_adjoint_of_pull(generator: torch.Generator, order: Any, bound: str):
    image, grid = inputs(2, generator)
    values = torch.randn(2, 3, *grid.shape[1:-1], generator=generator, dtype=torch.float64)
    for extrapolate in (True, False):
        pulled = monai_grids.grid_pull(image, grid, order, bound, extrapolate)
        pushed = monai_grids.grid_push(values, grid, image.shape[2:], order, bound, extrapolate)
        torch.testing.assert_close((pulled * values).sum(), (pushed * image).sum())


@pytest.mark.parametrize("bound", ["replicate", "dct1", "dst1", "dft"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_all_is_differentiable(generator: torch.Generator, order: int, bound: str):
    image = torch.randn(1, 2, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(1, 1, 3, 2, generator=generator, dtype=torch.float64) * 12 - 5
    grid.requires_grad_()
    for name in ("grid_pull", "grid_grad"):
        function = getattr(monai_grids, name)
        assert torch.autograd.gradcheck(lambda *x, f=function: f(*x, order, bound), (image, grid))
    values = torch.randn(1, 2, 1, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *x: monai_grids.grid_push(*x, (3, 2), order, bound), (values, grid)
    )


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_order_2_by_the_kernels_is_the_definitions(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, ndim: int, bound: str
):
    image, grid = inputs(ndim, generator)
    on_knots = torch.round(grid * 2) / 2  # and on voxels' centres
    found = [everything(interpol, image, x, 2, bound, True) for x in (grid, on_knots)]
    coarse = everything(interpol, image.float(), grid.float(), 2, bound, True)
    for name, value in coarse.items():
        torch.testing.assert_close(value.double(), found[0][name], atol=2e-3, rtol=1e-4)
    monkeypatch.delitem(_grids._MODES, 2)
    expected = [everything(interpol, image, x, 2, bound, True) for x in (grid, on_knots)]
    # The second derivative jumps at a knot: where the image runs back it is the other side's.
    del found[1]["grad, gradient 1"], expected[1]["grad, gradient 1"]
    for own, definition in zip(found, expected, strict=True):
        assert_same(own, definition)


def test_order_2_is_differentiable_twice(generator: torch.Generator):
    image = torch.randn(1, 1, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(1, 2, 2, 2, generator=generator, dtype=torch.float64) * 6 - 2
    grid.requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda *x: monai_grids.grid_pull(*x, 2, "dst2"), (image, grid)
    )


@pytest.mark.parametrize("order", [0, 1, 2, 3, [3, 4]])
def test_monais_are_torch_interpols_under_other_names(generator: torch.Generator, order: Any):
    image, grid = inputs(2, generator)
    for bound, integer in MONAI_INTEGERS.items():
        expected = everything(interpol, image, grid, order, bound, True)
        assert_same(everything(monai_grids, image, grid, order, integer, True), expected)
    for name in ("border", "wrap", "zeros", "mirror", "reflect", "antimirror", "antireflect"):
        monai_grids.grid_pull(image, grid, "cubic", name)


def test_nearest_rounds_halves_as_each_peer_does():
    image = torch.arange(6.0)[None, None, :, None].expand(1, 1, 6, 2)
    x = torch.tensor([0.5, 1.5, 2.5, 3.5])
    grid = torch.stack([x, torch.zeros(4)], -1)[None, :, None]
    assert interpol.grid_pull(image, grid, 0).flatten().tolist() == [0, 2, 2, 4]
    assert monai_grids.grid_pull(image, grid, 0).flatten().tolist() == [1, 2, 3, 4]
    below = monai_grids.grid_pull(image, -grid, 0, "dst2").flatten().tolist()
    assert below == [0, -1, -2, -3]  # at -1, -2, -3 and -4


def test_monais_count_without_a_shape_has_the_grids():
    grid = identity((4, 5, 6))[None]
    assert monai_grids.grid_count(grid).shape == (1, 1, 4, 5, 6)
    torch.testing.assert_close(
        monai_grids.grid_count(grid), torch.ones(1, 1, 4, 5, 6, dtype=torch.float64)
    )


def test_monais_errors():
    image, grid = torch.zeros(1, 1, 4, 5), torch.zeros(1, 4, 5, 2)
    with pytest.raises(KeyError, match="none"):
        monai_grids.grid_pull(image, grid, "none")
    with pytest.raises(KeyError, match="none"):
        monai_grids.grid_pull(image, grid, bound="none")
    with pytest.raises(ValueError, match="bound must be one of"):
        monai_grids.grid_pull(image, grid, bound=6)
    with pytest.raises(ValueError, match="interpolation must be 0 to 7"):
        monai_grids.grid_pull(image, grid, 8)
    with pytest.raises(RuntimeError, match="same dtype"):
        monai_grids.grid_pull(image, grid.double())
    with pytest.raises(RuntimeError, match="last dimension"):
        monai_grids.grid_pull(image, grid[..., :1])
    with pytest.raises(RuntimeError, match="expected 3D, 4D or 5D grid"):
        monai_grids.grid_pull(image, grid[0, 0])
    with pytest.raises(RuntimeError, match="same batch"):
        monai_grids.grid_push(image[..., 1:], grid)
    with pytest.raises(RuntimeError, match="floating-point"):
        monai_grids.grid_pull(image.int(), grid)


def test_torch_interpols_errors(monkeypatch: pytest.MonkeyPatch):
    image, grid = torch.zeros(1, 1, 4, 5), torch.zeros(1, 4, 5, 2)
    with pytest.raises(ValueError, match="Unknown interpolation order none"):
        interpol.grid_pull(image, grid, "none")
    with pytest.raises(ValueError, match="Unknown boundary condition none"):
        interpol.grid_pull(image, grid, bound="none")
    with pytest.raises(ValueError, match="Unknown boundary condition 7"):
        interpol.grid_pull(image, grid, bound=7)
    with pytest.raises(ValueError, match="Incompatible shapes"):
        interpol.grid_pull(image.expand(2, 1, 4, 5), grid.expand(3, 4, 5, 2))
    monkeypatch.setattr("plasticine.compat._handover.original", lambda name: None)
    with pytest.raises(NotImplementedError, match="prefilter of orders"):
        interpol.grid_pull(image, grid, 2, prefilter=True)


@pytest.mark.skipif(importlib.util.find_spec("monai") is None, reason="MONAI is not installed")
def test_a_metatensor_stays_one():
    from monai.data import MetaTensor

    image = MetaTensor(torch.rand(1, 1, 4, 5), affine=torch.eye(4) * 2)
    found = monai_grids.grid_pull(image, identity((4, 5))[None].float())
    assert isinstance(found, MetaTensor)
    torch.testing.assert_close(found.affine, image.affine)


def test_patch_serves_torch_interpol(peer: ModuleType, generator: torch.Generator):
    image, grid = inputs(2, generator)
    expected = peer.grid_pull(image, grid)
    with compat.patched("interpol") as report:
        assert peer.grid_pull is peer.pull is peer.api.grid_pull is interpol.grid_pull
        assert "grid_push" in str(report)
        torch.testing.assert_close(peer.grid_pull(image, grid), expected)
        resized = peer.resize(image, factor=2)  # it samples with grid_pull
    torch.testing.assert_close(resized, peer.resize(image, factor=2), atol=1e-5, rtol=1e-5)
    assert peer.grid_pull is not interpol.grid_pull


@pytest.mark.parametrize("order", ["linear", "quadratic"])
def test_compile_and_vmap(generator: torch.Generator, order: str):
    image, grid = (x.float() for x in inputs(2, generator))

    def pull(image: Tensor, grid: Tensor) -> Tensor:
        return monai_grids.grid_pull(image, grid, order, ["dct2", "dst1"], False)

    expected = pull(image, grid)
    compiled = torch.compile(pull, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image, grid), expected)
    mapped = torch.vmap(lambda x, y: pull(x[None], y[None])[0])(image, grid)
    torch.testing.assert_close(mapped, expected)
