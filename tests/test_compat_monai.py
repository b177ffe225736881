"""``plasticine.compat.monai`` against MONAI, and without it."""

from __future__ import annotations

import contextlib
import copy
import pickle
import warnings

import pytest
import torch
from compat_fields import DTYPES, SIZES, field, image, same

from plasticine.compat import _handover, monai, original, patched

WARP = "monai.networks.blocks.warp.Warp"
# Of MONAI's losses of float64 images, whose kernels, bins and sizes are float32.
FLOAT = (1e-4, 1e-5)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def theirs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("monai", reason="MONAI is not installed")
    names = [replacement.name for replacement in monai.REPLACEMENTS]
    return {name.rsplit(".", 1)[1]: original(name) for name in names}


@pytest.fixture
def absent(monkeypatch):
    """MONAI as if it were not installed."""
    monkeypatch.setattr(_handover, "original", lambda name: None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("padding", ["border", "zeros", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_warp(theirs, mode, padding, size, dtype):
    if mode == "bicubic" and len(size) == 3:
        pytest.skip("PyTorch's bicubic is 2D")
    moving, ddf = image(size, dtype, channels=2), field(size, dtype)
    options = {"mode": mode, "padding_mode": padding}
    same(monai.Warp(**options), theirs["Warp"](**options), moving, ddf)


@pytest.mark.parametrize("size", [(1, 6), (6, 1, 7)])
@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_an_axis_of_one_voxel(theirs, padding, size):
    moving, ddf = image(size), field(size)
    same(monai.Warp(padding_mode=padding), theirs["Warp"](padding_mode=padding), moving, ddf)
    same(monai.DVF2DDF(4), theirs["DVF2DDF"](4), ddf)


def test_jitter_draws_the_same_numbers(theirs):
    moving, ddf = image((6, 7)), field((6, 7))
    state = torch.random.get_rng_state()
    same(monai.Warp(jitter=True), theirs["Warp"](jitter=True), moving, ddf)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "options", [{}, {"num_steps": 3, "padding_mode": "border"}, {"num_steps": True}]
)
def test_dvf2ddf(theirs, options, size, dtype):
    same(monai.DVF2DDF(**options), theirs["DVF2DDF"](**options), field(size, dtype), atol=1e-4)


def test_dvf2ddf_of_other_modes(theirs):
    options = {"num_steps": 2, "mode": "nearest"}
    same(monai.DVF2DDF(**options), theirs["DVF2DDF"](**options), field((6, 7)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel_size": 5, "kernel_type": "gaussian", "reduction": "sum"},
        {"smooth_nr": 0.1, "smooth_dr": 0.2},
        {"reduction": "none"},
        {"kernel_type": "triangular", "kernel_size": 5},
        {"kernel_size": 1, "smooth_dr": 1.0, "smooth_nr": 1.0},
    ],
)
def test_lncc(theirs, options, size, dtype):
    name = "LocalNormalizedCrossCorrelationLoss"
    options = {"spatial_dims": len(size), **options}
    pair = image(size, dtype, channels=2), image(size, dtype, channels=2, seed=2)
    ours = monai.LocalNormalizedCrossCorrelationLoss(**options)
    same(ours, theirs[name](**options), *pair, precise=FLOAT)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*SIZES, (6,)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel_type": "b-spline", "num_bins": 16},
        {"reduction": "sum", "num_bins": 9, "sigma_ratio": 0.7, "smooth_nr": 1e-5},
        {"reduction": "none"},
        {"num_bins": 3, "sigma_ratio": 2.0},
    ],
)
def test_mutual_information(theirs, options, size, dtype):
    pair = image((*size, 8)[:3], dtype), image((*size, 8)[:3], dtype, seed=2)
    ours, other = monai.GlobalMutualInformationLoss, theirs["GlobalMutualInformationLoss"]
    if dtype == torch.float64 and options.get("kernel_type") == "b-spline":
        return  # MONAI's weights are float32
    same(ours(**options), other(**options), *pair, rtol=1e-3, precise=FLOAT)


@pytest.mark.parametrize("name", ["BendingEnergyLoss", "DiffusionLoss"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_smoothness(theirs, name, reduction, normalize, size, dtype):
    options = {"normalize": normalize, "reduction": reduction}
    ours, other = getattr(monai, name)(**options), theirs[name](**options)
    same(ours, other, field(size, dtype), rtol=1e-3, precise=FLOAT)


def test_enums_of_monai(theirs):
    from monai.utils import GridSampleMode, GridSamplePadMode, LossReduction

    warp = monai.Warp(GridSampleMode.NEAREST, GridSamplePadMode.REFLECTION)
    assert (warp.mode, warp.padding_mode) == ("nearest", "reflection")
    assert monai.DiffusionLoss(reduction=LossReduction.SUM).reduction == "sum"


@pytest.mark.parametrize("is_patched", [False, True])
def test_what_is_handed_over(theirs, is_patched):
    with patched("monai") if is_patched else contextlib.nullcontext():
        compare_what_is_handed_over(theirs)


def compare_what_is_handed_over(theirs):
    labels, ddf = image((6, 7)).double(), field((6, 7), torch.float64)
    for ours, other, inputs in (
        (monai.Warp(mode="unheard of"), theirs["Warp"](mode="unheard of"), (labels, ddf)),
        (monai.DiffusionLoss(), theirs["DiffusionLoss"](), (torch.arange(40.0).view(2, 1, 20),)),
        (monai.BendingEnergyLoss(), theirs["BendingEnergyLoss"](), (field((6, 7)).long(),)),
        (
            monai.LocalNormalizedCrossCorrelationLoss(spatial_dims=1),
            theirs["LocalNormalizedCrossCorrelationLoss"](spatial_dims=1),
            (labels[..., 0], labels[..., 1]),
        ),
    ):
        torch.testing.assert_close(ours(*inputs), other(*inputs))
    with pytest.raises(RuntimeError, match="Float"):  # as MONAI's
        monai.Warp()(labels, field((6, 7)))


def test_what_is_not_served_says_so_without_monai(absent):
    for build in (
        lambda: monai.Warp(mode=2),
        lambda: monai.LocalNormalizedCrossCorrelationLoss(spatial_dims=1),
        lambda: monai.BendingEnergyLoss(reduction="none"),
        lambda: monai.Warp()(image((6, 7)).long(), field((6, 7))),
    ):
        with pytest.raises(NotImplementedError, match="is not installed"):
            build()


def test_errors(absent):
    moving, ddf = image((6, 7)), field((6, 7))
    with pytest.raises(ValueError, match="ddf must have shape"):
        monai.Warp()(moving, ddf[:1])
    with pytest.raises(NotImplementedError):
        monai.Warp()(moving[..., 0], ddf[..., 0])
    for steps in (0, -1):
        with pytest.raises(ValueError, match="num_steps"):
            monai.DVF2DDF(num_steps=steps)
    with pytest.raises(ValueError, match="kernel_size"):
        monai.LocalNormalizedCrossCorrelationLoss(kernel_size=4)
    with pytest.raises(ValueError, match="shape"):
        monai.LocalNormalizedCrossCorrelationLoss()(moving, moving)
    with pytest.raises(ValueError, match="num_bins"):
        monai.GlobalMutualInformationLoss(num_bins=0)
    with pytest.raises(ValueError, match="shape"):
        monai.GlobalMutualInformationLoss()(moving, moving[:1])
    for loss in (monai.BendingEnergyLoss(), monai.DiffusionLoss()):
        for wrong in (moving, ddf[:, :, :2], ddf[0]):
            with pytest.raises(ValueError, match=r"got shape \("):
                loss(wrong)
    for build in (monai.DiffusionLoss, monai.GlobalMutualInformationLoss):
        with pytest.raises(ValueError, match="reduction"):
            build(reduction="unknown")


def test_nothing_of_these_is_in_a_checkpoint():
    for module in (monai.Warp(), monai.DVF2DDF(), monai.GlobalMutualInformationLoss()):
        assert not module.state_dict()
        assert not list(module.parameters())


def test_compile_vmap_autocast_and_double_backward():
    moving, ddf = image((6, 7, 8)), field((6, 7, 8))
    warp, dvf2ddf = monai.Warp(), monai.DVF2DDF(3)

    def step(moving, ddf):
        return warp(moving, dvf2ddf(ddf))

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(moving, ddf), step(moving, ddf))
    mapped = torch.vmap(step)(moving[None], ddf[None])
    torch.testing.assert_close(mapped[0], step(moving, ddf))
    with torch.autocast("cpu", torch.bfloat16):
        half = warp(moving.bfloat16(), ddf)
        assert half.dtype == warp(moving, ddf.bfloat16()).dtype == torch.float32
        lncc = monai.LocalNormalizedCrossCorrelationLoss()
        torch.testing.assert_close(
            lncc(moving.bfloat16(), moving), lncc(moving, moving), rtol=0.01, atol=0.01
        )
        assert monai.DiffusionLoss()(ddf.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(half, warp(moving, ddf), rtol=0.02, atol=0.02)
    moving, ddf = (x[:1, :, :3, :3, :3].double().requires_grad_() for x in (moving, ddf))
    assert torch.autograd.gradgradcheck(warp, (moving, ddf))


@pytest.mark.parametrize(
    ("name", "options", "attributes"),
    [
        (
            "LocalNormalizedCrossCorrelationLoss",
            options,
            ("ndim", "kernel_size", "kernel", "kernel_vol", "smooth_nr", "smooth_dr"),
        )
        for options in ({}, {"kernel_type": "gaussian", "spatial_dims": 2}, {"spatial_dims": 1})
    ]
    + [
        (
            "GlobalMutualInformationLoss",
            options,
            ("kernel_type", "num_bins", "bin_centers", "preterm", "smooth_nr", "smooth_dr"),
        )
        for options in ({}, {"num_bins": 9, "sigma_ratio": 0.7}, {"kernel_type": "b-spline"})
    ]
    + [(name, {"normalize": True}, ("normalize",)) for name in ("DiffusionLoss",)],
)
def test_what_subclasses_of_a_loss_read(theirs, name, options, attributes):
    ours, other = getattr(monai, name)(**options), theirs[name](**options)
    assert isinstance(ours, torch.nn.modules.loss._Loss)
    assert ours.state_dict().keys() == other.state_dict().keys()
    for attribute in ("reduction", *attributes):
        got, expected = getattr(ours, attribute), getattr(other, attribute)
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(got, expected)
        else:
            assert got == expected


def test_attributes_of_a_loss_may_be_set(theirs):
    moving, fixed, ddf = image((6, 7, 8)), image((6, 7, 8), seed=2), field((6, 7, 8))
    for name, inputs, changes in (
        ("LocalNormalizedCrossCorrelationLoss", (moving, fixed), {"smooth_dr": 2.0}),
        ("GlobalMutualInformationLoss", (moving, fixed), {"reduction": "none", "smooth_nr": 0.01}),
        ("BendingEnergyLoss", (ddf,), {"normalize": True, "reduction": "sum"}),
        ("DiffusionLoss", (ddf,), {"reduction": "none"}),
    ):
        ours, other = getattr(monai, name)(), theirs[name]()
        for module in (ours, other):
            for attribute, value in changes.items():
                setattr(module, attribute, value)
        torch.testing.assert_close(ours(*inputs), other(*inputs), rtol=1e-4, atol=1e-5)


def test_autocast_on_a_cpu(theirs):
    moving, ddf = image((6, 7, 8)), field((6, 7, 8))
    with torch.autocast("cpu", torch.bfloat16):
        for x in (moving, moving.bfloat16()):
            for u in (ddf, ddf.bfloat16()):
                got, expected = monai.Warp()(x, u), theirs["Warp"]()(x, u)
                # Their coordinates are bfloat16, if the field is.
                torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)
                got, expected = monai.DVF2DDF(2)(u), theirs["DVF2DDF"](2)(u)
                torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)


def test_patch_serves_the_models_of_monai(theirs):
    from monai.networks import nets

    moving, fixed = image((16, 16)), image((16, 16), seed=2)
    options = {"spatial_dims": 2, "channels": [4, 4, 4, 4], "final_conv_channels": [4]}
    net = nets.VoxelMorphUNet(in_channels=2, unet_out_channels=2, **options)
    model = nets.VoxelMorph(net, spatial_dims=2)
    with patched("monai") as report:
        assert report.version.startswith("1.6")
        assert len(report.replaced) >= 6
        net = nets.VoxelMorphUNet(in_channels=2, unet_out_channels=2, **options)
        faster = nets.VoxelMorph(net, spatial_dims=2)
        assert isinstance(faster.dvf2ddf, monai.DVF2DDF)
    assert type(nets.VoxelMorph(net, spatial_dims=2).dvf2ddf) is theirs["DVF2DDF"]
    faster.load_state_dict(model.state_dict())
    for got, expected in zip(faster(moving, fixed), model(moving, fixed), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("Warp", (image((6, 7)), field((6, 7)))),
        ("DVF2DDF", (field((6, 7)),)),
        ("LocalNormalizedCrossCorrelationLoss", (image((6, 7, 8)), image((6, 7, 8), seed=2))),
        ("GlobalMutualInformationLoss", (image((6, 7)), image((6, 7), seed=2))),
        ("BendingEnergyLoss", (field((6, 7)),)),
    ],
)
def test_what_was_saved_whole_before_the_patch_stays_what_it_was(theirs, name, inputs):
    module = theirs[name]()
    saved = pickle.dumps(module)
    with patched("monai"):
        loaded = pickle.loads(saved)
        assert type(loaded) is theirs[name]
        torch.testing.assert_close(loaded(*inputs), module(*inputs))
    ours = getattr(monai, name)()
    for loaded in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert type(loaded) is type(ours)
        assert loaded.__dict__.keys() == ours.__dict__.keys()
        torch.testing.assert_close(loaded(*inputs), ours(*inputs))
