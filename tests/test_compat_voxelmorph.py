"""``plasticine.compat.voxelmorph`` against VoxelMorph 0.3.4, and without it."""

from __future__ import annotations

import pytest
import torch
from compat_fields import DTYPES, SIZES, field, image, same

from plasticine.compat import _handover, original, patched, voxelmorph


@pytest.fixture(scope="module")
def theirs():
    pytest.importorskip("voxelmorph.nn", reason="VoxelMorph 0.3 is not installed")
    names = [replacement.name for replacement in voxelmorph.REPLACEMENTS]
    new = [name for name in names if not name.startswith("voxelmorph.torch")]
    return {name.rsplit(".", 1)[1]: original(name) for name in new}


@pytest.fixture
def absent(monkeypatch):
    """VoxelMorph as if it were not installed."""
    monkeypatch.setattr(_handover, "original", lambda name: None)


def pair(theirs, name, *arguments, **options):
    return [x(*arguments, **options) for x in (getattr(voxelmorph, name), theirs[name])]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*SIZES, (1, 6), (5, 1, 6)])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("align_corners", [True, False])
def test_spatial_transformer(theirs, align_corners, mode, size, dtype):
    ours, other = pair(theirs, "SpatialTransformer", mode, align_corners)
    same(ours, other, image(size, dtype, channels=2), field(size, dtype), atol=1e-4)
    assert ours.state_dict().keys() == other.state_dict().keys()


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align_corners", [True, False])
def test_spatial_transform(theirs, align_corners, padding):
    options = {"align_corners": align_corners, "padding_mode": padding}
    ours, other = voxelmorph.spatial_transform, theirs["spatial_transform"]
    moving, trf = image((7, 10), batch=1), field((7, 10), batch=1)
    for given in (
        (moving, trf[0], {}),
        (moving[0], trf[0], {"non_spatial_dims": (0,)}),
        (moving[0, 0], trf[0], {"non_spatial_dims": None}),
        (image((9, 12), batch=1), trf, {}),  # the size of the field is the result's
        (moving, torch.eye(3) + 0.05, {}),
        (moving, torch.eye(3)[None] + 0.05, {}),
        (moving, trf, {"meshgrid": field((7, 10))[0]}),
    ):
        *inputs, more = given
        same(
            lambda *x, more=more: ours(*x, **options, **more),
            lambda *x, more=more: other(*x, **options, **more),
            *inputs,
            atol=1e-4,
        )
    coordinates = (trf / 5).clamp(-1, 1)
    same(
        lambda *x: ours(*x, isdisp=False, **options),
        lambda *x: other(*x, isdisp=False, **options),
        *(moving, coordinates),
    )
    assert ours(moving, None) is moving


@pytest.mark.parametrize("method", ["nearest", "linear"])
def test_integers(theirs, method):
    labels = (9 * image((7, 10))).long()
    ours, other = (
        function(labels, field((7, 10)), method=method)
        for function in (voxelmorph.spatial_transform, theirs["spatial_transform"])
    )
    assert ours.dtype == other.dtype == (torch.int64 if method == "nearest" else torch.float32)
    torch.testing.assert_close(ours, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*SIZES, (4, 1, 5)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps": 7},
        {"steps": 0},
        {"steps": 3, "align_corners": False},
        {"steps": 2, "interpolation_mode": "nearest"},
        {"steps": 100},
    ],
)
def test_integrate_velocity_field(theirs, options, size, dtype):
    ours, other = pair(theirs, "IntegrateVelocityField", **options)
    same(ours, other, field(size, dtype), atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": 0.3}, {"non_spatial_dims": None}, {"transformer": lambda u, v: u - v}],
)
def test_integrate_vec(theirs, options):
    velocity = field((7, 10))
    if "non_spatial_dims" in options:
        velocity = velocity[0]
    ours, other = voxelmorph.integrate_vec, theirs["integrate_vec"]
    same(lambda v: ours(v, 4, **options), lambda v: other(v, 4, **options), velocity, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [2, 0.5, 1.0])
def test_resizing(theirs, factor, size):
    ours, other = pair(theirs, "ResizeDisplacementField", factor)
    same(ours, other, field([2 * n for n in size]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(14, 17), (11, 12, 13)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": None, "window_size": 5},
        {"reduction": "sum", "keepdims": False, "eps": 0.1},
        {"reduction_dim": 1},
        {"reduction": "amax", "window_size": 4},
    ],
)
def test_ncc(theirs, options, size, dtype):
    images = image(size, dtype, channels=2), image(size, dtype, channels=2, seed=2)
    same(
        lambda *x: voxelmorph.ncc(*x, **options),
        lambda *x: theirs["ncc"](*x, **options),
        *images,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{}, {"penalty": "l1"}, {"reduction": "sum"}])
def test_spatial_gradient(theirs, options, size, dtype):
    ours, other = voxelmorph.spatial_gradient, theirs["spatial_gradient"]
    same(lambda x: ours(x, **options), lambda x: other(x, **options), field(size, dtype))


def test_a_hook_of_the_transformer_is_called(theirs):
    for layer in (
        voxelmorph.IntegrateVelocityField(steps=3),
        voxelmorph.layers.VecInt((7, 10), 3),
    ):
        velocity = field((7, 10))
        expected = layer(velocity)
        calls = []
        layer.transformer.register_forward_hook(lambda *_, seen=calls: seen.append(1))
        torch.testing.assert_close(layer(velocity), expected, rtol=1e-4, atol=1e-4)
        assert len(calls) == 3


def test_what_is_handed_over_while_patched(theirs):
    moving, trf = image((14, 17)), field((14, 17))
    expected = theirs["spatial_gradient"](trf, "l1")
    with patched("voxelmorph"):
        torch.testing.assert_close(voxelmorph.spatial_gradient(trf, "l1"), expected)
        voxelmorph.ncc(moving, moving, 4)
        voxelmorph.spatial_transform(moving[:1], torch.eye(3))
        voxelmorph.integrate_vec(trf, 2, meshgrid=trf[0])


def test_errors(absent):
    moving, trf = image((7, 10)), field((7, 10))
    with pytest.raises(AssertionError):
        voxelmorph.IntegrateVelocityField(steps=-1)
    with pytest.raises(AssertionError):
        voxelmorph.SpatialTransformer()(moving[0], trf[0])
    with pytest.raises(AssertionError):
        voxelmorph.SpatialTransformer()(moving, trf[0])
    for build in (
        lambda: voxelmorph.spatial_transform(moving, torch.eye(3)),
        lambda: voxelmorph.spatial_transform(moving, trf.double()),
        lambda: voxelmorph.integrate_vec(trf, 3, meshgrid=trf),
        lambda: voxelmorph.ncc(moving, moving, 4),
        lambda: voxelmorph.spatial_gradient(trf, "l1"),
    ):
        with pytest.raises(NotImplementedError, match="is not installed"):
            build()
    with pytest.raises(AssertionError, match="not finite"):
        voxelmorph.ncc(moving / 0, moving)


def test_steps_below_zero_are_handed_over(theirs):
    velocity = field((7, 10))
    for options in ({}, {"scale": 0.5}, {"transformer": lambda u, v: u - v}):
        expected = theirs["integrate_vec"](velocity, -1, **options)
        torch.testing.assert_close(voxelmorph.integrate_vec(velocity, -1, **options), expected)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_autocast_on_a_cpu(theirs, mode):
    moving, trf = image((7, 8, 9)), field((7, 8, 9))
    transformers = pair(theirs, "SpatialTransformer", mode)
    integrators = pair(theirs, "IntegrateVelocityField", steps=2, interpolation_mode=mode)
    # A bfloat16 coordinate is wrong by more than what decides over the nearest voxel.
    tolerance = {"rtol": 0.05, "atol": 0.05 if mode == "linear" else 5}
    with torch.autocast("cpu", torch.bfloat16):
        for x in (moving, moving.bfloat16()):
            for u in (trf, trf.bfloat16()):
                got, expected = (module(x, u) for module in transformers)
                torch.testing.assert_close(got, expected, **tolerance)
                got, expected = (module(u) for module in integrators)
                torch.testing.assert_close(got, expected, **tolerance)


def test_compile_and_vmap():
    moving, trf = image((6, 7, 8)), field((6, 7, 8))
    transformer, integrate = (
        voxelmorph.SpatialTransformer(),
        voxelmorph.IntegrateVelocityField(steps=3),
    )

    def step(moving, trf):
        return transformer(moving, integrate(trf))

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(moving, trf), step(moving, trf))
    torch.testing.assert_close(torch.vmap(step)(moving[None], trf[None])[0], step(moving, trf))


def test_patch_serves_the_model_of_voxelmorph(theirs):
    import voxelmorph as installed

    options = {"ndim": 2, "source_channels": 1, "target_channels": 1, "nb_features": [4, 4, 4]}
    options["flow_initializer"] = 0.3
    moving, fixed = image((16, 16)), image((16, 16), seed=2)
    model = installed.nn.models.VxmPairwise(**options)
    with patched("voxelmorph") as report:
        assert len(report.replaced) == 7
        assert all(name.startswith("voxelmorph.torch") for name, _ in report.left)
        faster = installed.nn.models.VxmPairwise(**options)
        assert isinstance(faster.spatial_transformer, voxelmorph.SpatialTransformer)
        faster.load_state_dict(model.state_dict())
        got = faster(moving, fixed, return_warped_source=True, return_warped_target=True)
        ours = installed.nn.functional.compose([got[0], got[0]])
        drawn = installed.nn.functional.random_transform((2, 1, 16, 16))
        assert drawn.shape == (2, 2, 16, 16)
    expected = model(moving, fixed, return_warped_source=True, return_warped_target=True)
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
    composed = installed.nn.functional.compose([got[0], got[0]])
    torch.testing.assert_close(ours, composed, rtol=1e-4, atol=1e-4)
