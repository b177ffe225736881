"""Structure maps: what they keep of an image and what they let go."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from refusal import refuses

from plasticine import gaussian_smooth, structure
from plasticine.reference.shift import shift
from plasticine.structure.contour import clipped_distance

IMAGE_MAPS = sorted(
    name for name, map_ in structure.STRUCTURE_MAPS.items() if not map_.needs_labels
)
SHAPES = [(2, 1, 17, 22), (1, 1, 9, 12, 11)]


def _blobs(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """A smooth random image within [-1, 1]."""
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    smooth = gaussian_smooth(noise, 1.5)
    low = smooth.flatten(1).min(1).values.view(-1, *([1] * (len(shape) - 1)))
    high = smooth.flatten(1).max(1).values.view(-1, *([1] * (len(shape) - 1)))
    return 2 * (smooth - low) / (high - low) - 1


@pytest.mark.parametrize("name", IMAGE_MAPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_map_has_its_channels_within_0_and_1(name: str, shape: tuple[int, ...]) -> None:
    image = _blobs(shape)
    map_ = structure.create(name, len(shape) - 2)
    result = map_(image, "source")
    assert result.shape == (shape[0], map_.channels, *shape[2:])
    assert result.dtype == image.dtype
    assert result.min() >= 0
    assert result.max() <= 1
    assert result.std() > 0.05


@pytest.mark.parametrize("name", IMAGE_MAPS)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    map_ = structure.create(name, 2)
    image = _blobs((3, 1, 16, 20))
    for domain in ("source", "target"):
        whole, alone = map_(image, domain), map_(image[1:2], domain)
        torch.testing.assert_close(whole[1:2], alone)


def test_mind_forgets_gain_offset_and_sign_of_contrast() -> None:
    image = _blobs((1, 1, 24, 24))
    mind = structure.create("mind", 2)
    torch.testing.assert_close(mind(0.5 * image + 0.2), mind(image), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(mind(-image), mind(image), rtol=1e-4, atol=1e-5)


def test_mind_sees_what_moved() -> None:
    image = _blobs((1, 1, 24, 24))
    mind = structure.create("mind", 2)
    moved = mind(shift(image, (3, 0)))
    inside = (slice(None), slice(None), slice(8, 16), slice(8, 16))
    torch.testing.assert_close(
        moved[inside], shift(mind(image), (3, 0))[inside], rtol=1e-2, atol=1e-3
    )
    assert (moved - mind(image)).abs().mean() > 0.02


def test_mind_of_a_flat_image_is_one() -> None:
    assert structure.create("mind", 2)(torch.full((1, 1, 8, 8), 0.3)).min() == 1


def test_mind_against_its_definition() -> None:
    """One channel at one voxel, by hand: the patch at p against that of its right neighbour."""
    image = _blobs((1, 1, 21, 21)).double()
    mind = structure.create("mind", 2, dilations=(2,))
    array = image[0, 0].numpy()
    radius = 2
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / 0.8) ** 2)
    weight = np.outer(line, line) / line.sum() ** 2

    def distance(a: tuple[int, int], b: tuple[int, int]) -> float:
        def patch(c: tuple[int, int]) -> np.ndarray:
            i, j = 10 + 2 * c[0], 10 + 2 * c[1]
            return array[i - radius : i + radius + 1, j - radius : j + radius + 1]

        return float((weight * (patch(a) - patch(b)) ** 2).sum())

    distances = [distance(a, b) for a, b in mind.pairs]
    expected = np.exp(-np.array(distances) / np.mean(distances))
    np.testing.assert_allclose(mind(image)[0, :, 10, 10].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["kmeans", "multi-otsu"])
def test_clusters_are_separate_grey_levels(name: str) -> None:
    levels = torch.tensor([-1.0, -0.2, 0.4, 1.0])
    label = torch.randint(0, 4, (1, 1, 20, 20), generator=torch.Generator().manual_seed(1))
    noise = 0.02 * torch.randn(label.shape, generator=torch.Generator().manual_seed(2))
    image = (levels[label] + noise).clamp(-1, 1)
    result = structure.create(name, 2, clusters=4)(image)
    assert torch.equal(result.argmax(1, keepdim=True), label)
    assert torch.equal(result.sum(1), torch.ones(1, 20, 20))


@pytest.mark.parametrize("clusters", [2, 3, 4])
def test_multi_otsu_leaves_the_least_variance_of_all_thresholds(clusters: int) -> None:
    level = torch.tensor([0, 3, 40, 41, 90, 130, 131, 200, 255])
    count = torch.tensor([9, 1, 4, 6, 2, 7, 3, 5, 3])
    image = (level.repeat_interleave(count)[None, None, :, None] / 255 * 2 - 1).double()
    grey = level.repeat_interleave(count).numpy().astype(float)

    def deviation(cluster: np.ndarray) -> float:
        parts = [grey[cluster == i] for i in range(clusters)]
        return sum(float(((part - part.mean()) ** 2).sum()) for part in parts if len(part))

    found = structure.create("multi-otsu", 2, clusters=clusters)(image)[0].argmax(0)[:, 0].numpy()
    assert (np.diff(found) >= 0).all()  # dark to bright
    least = min(
        deviation(np.searchsorted(np.array(starts), grey, side="right"))
        for starts in itertools.combinations(level.numpy()[1:], clusters - 1)
    )
    assert deviation(found) == pytest.approx(least)


def test_multi_otsu_leaves_channels_empty_where_there_are_fewer_levels() -> None:
    image = torch.tensor([-1.0, 0.5]).repeat(1, 1, 4, 3)
    result = structure.create("multi-otsu", 2, clusters=4)(image)
    assert torch.equal(result.sum(1), torch.ones(1, 4, 6))
    assert int(result.flatten(2).any(2).sum()) == 2


def test_clipped_distance_is_euclidean() -> None:
    generator = torch.Generator().manual_seed(3)
    contour = torch.rand((1, 1, 14, 11, 9), generator=generator) > 0.985
    assert contour.any()
    position = torch.stack(
        torch.meshgrid(*(torch.arange(n) for n in contour.shape[2:]), indexing="ij"), -1
    ).reshape(-1, 3)
    on = position[contour.flatten()]
    expected = torch.cdist(position.float(), on.float()).amin(1).clamp_max(5)
    torch.testing.assert_close(clipped_distance(contour, 5).flatten(), expected)


def test_contour_shows_a_step_on_both_of_its_sides_only() -> None:
    image = torch.full((1, 1, 20, 20), -1.0)
    image[..., 10:] = 1.0
    result = structure.create("contour", 2)(image)[0, :, 10]
    assert result[0].argmax() in (9, 10)
    assert result[2, 9] == 0
    assert result[2, 0] == 1


@pytest.mark.parametrize("name", IMAGE_MAPS)
def test_wrong_images_are_refused(name: str) -> None:
    map_ = structure.create(name, 2)
    refuses(ValueError, r"\(N, 1, \*spatial\).*got \(1, 2, 8, 8\)", map_, torch.zeros(1, 2, 8, 8))
    refuses(ValueError, "2 spatial axes", map_, torch.zeros(1, 1, 8, 8, 8))
    refuses(TypeError, "int64", map_, torch.zeros(1, 1, 8, 8, dtype=torch.int64))


def test_wrong_options_are_refused() -> None:
    refuses(ValueError, "contour, kmeans, labels, mind, multi-otsu", structure.create, "edges", 2)
    refuses(ValueError, "ndim=4", structure.create, "mind", 4)
    refuses(ValueError, "dilations", structure.create, "mind", 2, dilations=())
    refuses(ValueError, "clusters", structure.create, "kmeans", 2, clusters=1)
    refuses(ValueError, "threshold", structure.create, "contour", 2, threshold=1.0)


def test_back_translation_keeps_the_source_and_runs_its_network_on_the_target() -> None:
    map_ = structure.create("back-translation", 2, channels=[4, 4], patch_size=1)
    image = _blobs((2, 1, 9, 12))
    assert torch.equal(map_(image, "source"), (image + 1) / 2)
    torch.nn.init.normal_(map_.network.network.last.weight)
    expected = map_.network((image + 1) / 2).clamp(0, 1)
    assert torch.equal(map_(image, "target"), expected.detach())
    assert expected.std() > 0
    refuses(ValueError, "expected 'source' or 'target'; got None", map_, image)
    refuses(ValueError, "domain must be one of source, target; got 'x'", map_, image, "x")
