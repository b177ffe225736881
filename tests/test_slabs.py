"""Denoising in overlapping slabs."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticine.diffusion import Denoiser, NoiseSchedule, SlabDenoiser, sample
from plasticine.diffusion.slabs import blending_weights


def _denoiser(normalised: bool = True) -> Denoiser:
    """A small 3D denoiser of random weights."""
    torch.manual_seed(0)
    denoiser = Denoiser(3, 2, NoiseSchedule("cosine", 50), (8, 8), blocks=1)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    if not normalised:
        for module in list(denoiser.network.modules()):
            for name, child in module.named_children():
                if isinstance(child, torch.nn.GroupNorm):
                    setattr(module, name, torch.nn.Identity())
    return denoiser.eval()


def _inputs(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(1, 1, *shape, generator=generator)
    condition = torch.rand(1, 2, *shape, generator=generator)
    return noisy, condition, torch.tensor([20])


@pytest.mark.parametrize(
    ("n", "size", "overlap"), [(40, 16, 4), (33, 16, 7), (19, 8, 0), (8, 8, 2)]
)
def test_slabs_cover_an_axis_and_their_weights_add_up_to_one(
    n: int, size: int, overlap: int
) -> None:
    slabs = SlabDenoiser(_denoiser(), size, overlap).slabs(n)
    assert slabs[0][0] == 0
    assert slabs[-1][1] == n
    assert all(start % 2 == 0 and stop - start <= size for start, stop in slabs)
    assert all(a[1] - b[0] >= overlap for a, b in itertools.pairwise(slabs))
    total = torch.zeros(n)
    for (start, stop), weight in zip(slabs, blending_weights(slabs), strict=True):
        assert weight.min() >= 0
        total[start:stop] += weight
    torch.testing.assert_close(total, torch.ones(n))


def test_weights_are_linear_over_the_middle_of_an_overlap() -> None:
    first, second = blending_weights([(0, 12), (4, 16)])
    torch.testing.assert_close(second, torch.tensor([0.0, 0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5]) / 5)
    torch.testing.assert_close(first, second.flip(0))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_network_without_normalisation_gives_in_slabs_what_it_gives_on_the_whole(
    guidance: float,
) -> None:
    """Its reach is less than the quarter of the overlap that weighs nothing, but for 1e-5."""
    denoiser = _denoiser(normalised=False)
    noisy, condition, k = _inputs(3, 96, 4)
    whole = denoiser.guided(noisy, condition, k, guidance)
    slabs = SlabDenoiser(denoiser, 80, 64)
    assert len(slabs.slabs(96)) == 2
    for expected, got in zip(whole, slabs.guided(noisy, condition, k, guidance), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_dropped_condition_is_dropped_in_slabs() -> None:
    denoiser = _denoiser(normalised=False)
    noisy, _, k = _inputs(96, 3, 4)
    got = SlabDenoiser(denoiser, 80, 64).predict_noise(noisy, None, k)
    torch.testing.assert_close(got, denoiser.predict_noise(noisy, None, k), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("overlap", "seamless"), [(16, True), (0, False)])
def test_a_sample_has_no_seams(overlap: int, seamless: bool) -> None:
    """The jump between planes where slabs meet, as a multiple of the whole volume's there."""
    denoiser = _denoiser()
    coarse = torch.randn(1, 3, 3, 8, 3, generator=torch.Generator().manual_seed(3))
    field = functional.interpolate(coarse, (8, 64, 8), mode="trilinear", align_corners=True)
    noisy, condition = field[:, :1], field[:, 1:].sigmoid()
    slabs = SlabDenoiser(denoiser, 32, overlap)

    def jumps(volume: Tensor) -> Tensor:
        return volume.diff(dim=3).abs().mean((0, 1, 2, 4))

    whole, in_slabs = (
        jumps(sample(network, noisy, condition, start=50, steps=3)) for network in (denoiser, slabs)
    )
    shared = torch.zeros(63, dtype=torch.bool)
    for before, after in itertools.pairwise(slabs.slabs(64)):
        shared[after[0] - 1 : before[1]] = True
    ratio = in_slabs / whole
    assert (ratio[shared].max() < 1.05) == seamless
    if seamless:
        assert ratio[shared].mean() < 1.01 * ratio[~shared].mean()


@pytest.mark.parametrize(
    ("size", "overlap", "message"),
    [
        (15, 4, "multiple of 2, .*got 15"),
        (0, 0, "multiple of 2, .*got 0"),
        (16, 15, "16 voxels can overlap by 0 … 14; got 15"),
        (16, -1, "got -1"),
    ],
)
def test_slabs_that_do_not_suit_the_network_are_refused(
    size: int, overlap: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SlabDenoiser(_denoiser(), size, overlap)
