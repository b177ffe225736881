"""Label maps, moved nearest or by linear weights."""

from __future__ import annotations

import pytest
import torch

from plasticine.nn.labels import warp_labels
from plasticine.ops.warp import warp

SIZES = {2: ((17, 14), (13, 19)), 3: ((9, 11, 10), (12, 7, 9))}


def drawn(ndim: int, kinds: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels, a displacement that leaves their map, and an affine map with a turn."""
    torch.manual_seed(ndim)
    moving, fixed = SIZES[ndim]
    labels = torch.randint(kinds, (2, 1, *moving))
    affine = torch.eye(ndim, ndim + 1)[None] + 0.2 * torch.randn(1, ndim, ndim + 1)
    return labels, 2 * torch.randn(2, ndim, *fixed), affine


@pytest.mark.parametrize("with_affine", [False, True])
@pytest.mark.parametrize("ndim", [2, 3])
def test_linear_is_the_greatest_of_one_map_a_label(ndim: int, with_affine: bool) -> None:
    labels, displacement, affine = drawn(ndim, 5)
    matrix = affine if with_affine else None
    one_hot = torch.nn.functional.one_hot(labels[:, 0], 5).movedim(-1, 1).double()
    weights = warp(
        one_hot, displacement.double(), affine=None if matrix is None else matrix.double()
    )
    best, expected = weights.max(1, keepdim=True)
    clear = (weights > best - 1e-9).sum(1, keepdim=True) == 1
    found = warp_labels(labels, displacement, matrix, interpolation="linear")
    assert found.dtype == torch.int64
    assert clear.float().mean() > 0.9
    assert torch.equal(found[clear], expected[clear])


@pytest.mark.parametrize("ndim", [2, 3])
def test_nearest_is_that_of_warp(ndim: int) -> None:
    labels, displacement, affine = drawn(ndim, 5)
    expected = warp(labels.double(), displacement.double(), affine=affine.double(), mode="nearest")
    assert torch.equal(warp_labels(labels, displacement, affine), expected.long())


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_labels_of_any_size_are_exact(interpolation: str) -> None:
    values = torch.tensor([0, 2**53, 2**53 + 1, -(2**62) - 1])
    labels = values[torch.randint(4, (1, 1, 8, 9, 7))]
    still = torch.zeros(1, 3, 8, 9, 7)
    assert torch.equal(warp_labels(labels, still, interpolation=interpolation), labels)
    some = warp_labels(labels, torch.randn(1, 3, 8, 9, 7), interpolation=interpolation)
    assert set(some.unique().tolist()) <= set(values.tolist())


def test_a_tie_goes_to_the_least_label() -> None:
    labels = torch.tensor([7, 3, 7, 9])[None, None, :, None].expand(1, 1, 4, 3)
    half = torch.zeros(1, 2, 4, 3)
    half[:, 0] = 0.5
    found = warp_labels(labels, half, interpolation="linear")
    assert found[0, 0, :, 0].tolist() == [3, 3, 7, 9]


def test_many_chunks_are_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, displacement, affine = drawn(3, 30)
    whole = warp_labels(labels, displacement, affine, interpolation="linear")
    monkeypatch.setattr("plasticine.nn.labels._CHUNK", 100)
    assert torch.equal(whole, warp_labels(labels, displacement, affine, interpolation="linear"))


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_a_map_that_is_nan_is_refused(interpolation: str) -> None:
    labels, displacement, _ = drawn(2, 3)
    displacement[0, 1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="a map that is NaN at 1"):
        warp_labels(labels, displacement, interpolation=interpolation)


def test_another_interpolation_is_refused() -> None:
    labels, displacement, _ = drawn(2, 3)
    with pytest.raises(ValueError, match="must be one of nearest, linear; got 'cubic'"):
        warp_labels(labels, displacement, interpolation="cubic")
