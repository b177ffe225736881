"""``plasticine.compat.transmorph``, and VoxelMorph's layers of 0.2, against what copies compute."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType

import pytest
import torch
from compat_fields import DTYPES, SIZES, field, image, same
from copied_layers import copied_layers

from plasticine.compat import patch, patched, transmorph, unpatch
from plasticine.compat.voxelmorph import layers, losses

theirs = copied_layers()


@pytest.fixture(autouse=True)
def _unpatched():
    yield
    unpatch()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("align_corners", [True, False])
def test_spatial_transformer(align_corners, mode, size, dtype):
    if mode == "bicubic" and len(size) == 3:
        pytest.skip("PyTorch's bicubic is 2D")
    ours = (
        transmorph.SpatialTransformer if align_corners else transmorph.UnalignedSpatialTransformer
    )
    other = copied_layers(align_corners).SpatialTransformer(size, mode)
    same(ours(size, mode), other, image(size, dtype, channels=2), field(size, dtype), atol=1e-4)


def test_an_image_of_another_size_than_the_field():
    moving, flow = image((9, 12)), field((7, 10))
    for align_corners, ours in (
        (True, transmorph.SpatialTransformer),
        (False, transmorph.UnalignedSpatialTransformer),
    ):
        other = copied_layers(align_corners).SpatialTransformer((7, 10))
        same(ours((7, 10)), other, moving, flow, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_integration(steps, size, dtype):
    same(layers.VecInt(size, steps), theirs.VecInt(size, steps), field(size, dtype), atol=1e-4)
    unaligned = copied_layers(False).VecInt(size, steps)
    same(transmorph.UnalignedVecInt(size, steps), unaligned, field(size, dtype), atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [2, 0.5, 1])
def test_resizing(factor, size):
    ours, other = (x.ResizeTransform(factor, len(size)) for x in (layers, theirs))
    same(ours, other, field([2 * n for n in size]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(14, 17), (11, 12, 13)])
@pytest.mark.parametrize("side", [None, 5])
def test_cross_correlation(side, size, dtype):
    win = None if side is None else [side] * len(size)
    pair = image(size, dtype), image(size, dtype, seed=2)
    same(transmorph.NCC_vxm(win), theirs.NCC_vxm(win), *pair)
    same(losses.NCC(win).loss, theirs.NCC_vxm(win), *pair)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{}, {"penalty": "l2"}, {"penalty": "l2", "loss_mult": 3}])
def test_smoothness(options, size, dtype):
    other = theirs.Grad3d(**options)
    for ours in (transmorph.Grad3d(**options), transmorph.Grad(**options)):
        same(lambda y, ours=ours: ours(y, None), lambda y: other(y, None), field(size, dtype))
    grad = losses.Grad(**options)
    same(lambda y: grad.loss(None, y), lambda y: other(y, None), image(size, dtype, channels=4))


def test_checkpoints_go_both_ways():
    for ours, other in (
        (layers.VecInt((5, 6), 3), theirs.VecInt((5, 6), 3)),
        (transmorph.register_model((5, 6), "nearest"), theirs.register_model((5, 6), "nearest")),
    ):
        assert ours.state_dict().keys() == other.state_dict().keys()
        for key, value in other.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key], value)
        assert ours.load_state_dict(other.state_dict()).unexpected_keys == []
        assert ours.load_state_dict({}).missing_keys == []
        other.load_state_dict(ours.state_dict())
        with pytest.raises(RuntimeError, match="Unexpected"):
            ours.load_state_dict({"other": torch.zeros(1)})
        assert not list(ours.buffers())
        for module in (ours, other):
            (name,) = other.state_dict()
            with pytest.raises(RuntimeError, match=f"size mismatch for {name}"):
                module.load_state_dict({name: torch.zeros(1, 2, 5, 7)}, strict=False)


def test_errors():
    with pytest.raises(ValueError, match="mode"):
        layers.SpatialTransformer((5, 6), "cubic")
    with pytest.raises(RuntimeError, match="size"):
        layers.SpatialTransformer((5, 6))(image((7, 6)), field((7, 6)))
    with pytest.raises(AssertionError):
        layers.VecInt((5, 6), -1)
    with pytest.raises(AssertionError):
        losses.NCC().loss(torch.zeros(2), torch.zeros(2))
    with pytest.raises(NotImplementedError, match="NCC_vxm is not installed"):
        transmorph.NCC_vxm([4, 4])(image((7, 6)), image((7, 6)))


@pytest.mark.parametrize("align_corners", [True, False])
def test_patch_serves_copies(align_corners):
    copy = copied_layers(align_corners)
    originals = dict(vars(copy))
    report = patch("transmorph", copy)
    assert len(report.replaced) == 7
    assert report.left == ()
    assert issubclass(copy.SpatialTransformer, layers.SpatialTransformer)
    assert copy.SpatialTransformer.align_corners == align_corners
    assert copy.VecInt((5, 6), 1).transformer.align_corners == align_corners
    moving, flow = image((5, 6)), field((5, 6))
    expected = originals["register_model"]((5, 6))([moving, flow])
    got = copy.register_model((5, 6))([moving.clone(), flow])
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-5)
    # A window that is not served goes to the copy.
    odd = originals["NCC_vxm"]([1, 1])(moving, moving)
    torch.testing.assert_close(copy.NCC_vxm([1, 1])(moving, moving), odd)
    unpatch("transmorph")
    assert copy.SpatialTransformer is originals["SpatialTransformer"]


def test_a_changed_copy_is_refused():
    copy = copied_layers()

    class SpatialTransformer(theirs.SpatialTransformer):
        def forward(self, src, flow):
            return super().forward(src, 2 * flow)

    copy.SpatialTransformer = SpatialTransformer
    with pytest.raises(RuntimeError, match=r"SpatialTransformer.*other numbers.*Nothing"):
        patch("transmorph", copy)
    assert copy.VecInt.__module__ != layers.__name__


@pytest.mark.skipif(torch.cuda.is_available(), reason="the copy would need none")
def test_a_copy_that_needs_a_gpu_is_served_without_one():
    copy = copied_layers(needs_a_gpu=True)
    with patched("transmorph", copy) as report:
        assert copy.SpatialTransformer is layers.SpatialTransformer
    assert "not compared" in str(report)


def test_patch_takes_several_modules():
    first, second, empty = copied_layers(), copied_layers(), ModuleType("empty")
    del second.VecInt
    second.__name__ = "second"
    report = patch("transmorph", first, second)
    assert len(report.replaced) == 13
    assert first.SpatialTransformer is second.SpatialTransformer
    with pytest.raises(ValueError, match="needs the modules"):
        patch("transmorph")
    with pytest.raises(RuntimeError, match="nothing"):
        patch("transmorph", empty)


def test_what_was_saved_whole_before_the_patch_stays_what_it_was(monkeypatch):
    copy = copied_layers()
    monkeypatch.setitem(sys.modules, copy.__name__, copy)
    classes = {name: x for name, x in vars(copy).items() if isinstance(x, type)}
    for name, each in classes.items():
        each.__module__, each.__qualname__ = copy.__name__, name

    class Plain:  # no module, as the losses of VoxelMorph's
        __module__, __qualname__ = copy.__name__, "Grad"

        def __init__(self, penalty="l1", loss_mult=None):
            self.penalties = [penalty]

        def loss(self, _, y_pred):
            return theirs.Grad3d("l2", 2)(y_pred, None)

    copy.Grad = Plain
    saved = pickle.dumps([copy.VecInt((5, 6), 2), copy.register_model((5, 6)), Plain("l2")])
    assert patch("transmorph", copy).left == ()
    integration, model, loss = pickle.loads(saved)
    assert type(integration) is classes["VecInt"]
    assert type(integration.transformer) is classes["SpatialTransformer"]
    assert type(model.spatial_trans) is classes["SpatialTransformer"]
    assert type(loss) is Plain
    assert loss.penalties == ["l2"]
    ours = pickle.loads(pickle.dumps([copy.VecInt((5, 6), 2), copy.Grad("l2")]))
    assert type(ours[0].transformer) is layers.SpatialTransformer
    assert vars(ours[1]) == {"penalty": "l2", "loss_mult": None}

    class Own(copy.SpatialTransformer):
        pass

    with pytest.raises(RuntimeError, match="load it before patch"):
        Own.__new__(Own).__setstate__(dict(vars(model.spatial_trans)))
