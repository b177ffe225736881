"""Surface distances, deformation errors, lesion contrast and set distances, each computed anew."""

from __future__ import annotations

import math

import pytest
import torch
from refusal import refuses

import plasticine
from plasticine import metrics

SHAPES = {
    (23, 19): (0.7, 1.5),
    (14, 13, 11): (2.0, 1.0, 0.5),
}


def _labels(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Two blobs with a few stray voxels."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand((1, 1, *shape), generator=generator)
    pool = torch.nn.functional.avg_pool2d if len(shape) == 2 else torch.nn.functional.avg_pool3d
    smooth = pool(noise, 5, stride=1, padding=2, count_include_pad=False)[0, 0]
    return (smooth > 0.52).long() + 2 * (smooth < 0.46).long()


class TestSurfaceDistance:
    def test_two_squares(self) -> None:
        a = torch.zeros(20, 20, dtype=torch.bool)
        a[5:10, 5:10] = True
        b = a.roll(4, dims=1)
        # Each column moves by four; the middle of the sides is nearer to the other square.
        found = metrics.surface_distance(a, b, spacing=(1, 0.5))[1]
        assert found.hd95 == pytest.approx(2)
        assert 0 < found.assd < 2
        same = metrics.surface_distance(a, a)[1]
        assert (same.hd95, same.assd) == (0, 0)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_equals_distances_of_all_pairs(self, shape: tuple[int, ...]) -> None:
        ndimage = pytest.importorskip("scipy.ndimage")
        spacing = SHAPES[shape]
        a, b = _labels(shape, 0), _labels(shape, 1)
        found = metrics.surface_distance(a, b, spacing=spacing)
        assert sorted(found) == [1, 2]
        for label, distance in found.items():
            points = []
            for labels in (a, b):
                mask = (labels == label).numpy()
                surface = mask & ~ndimage.binary_erosion(mask)
                points.append(torch.from_numpy(surface).nonzero() * torch.tensor(spacing))
            pairs = (points[0][:, None] - points[1][None]).double().norm(dim=2)
            ways = [pairs.amin(1), pairs.amin(0)]
            expected = max(float(way.quantile(0.95)) for way in ways)
            assert distance.hd95 == pytest.approx(expected)
            assert distance.assd == pytest.approx(float(torch.cat(ways).mean()))

    @pytest.mark.parametrize("shape", SHAPES)
    def test_equals_monai(self, shape: tuple[int, ...]) -> None:
        monai = pytest.importorskip("monai.metrics")
        spacing = SHAPES[shape]
        a, b = _labels(shape, 2), _labels(shape, 3)
        pair = [torch.stack([labels == n for n in (0, 1, 2)])[None].float() for labels in (a, b)]
        hd95 = monai.compute_hausdorff_distance(*pair, percentile=95, spacing=spacing)[0]
        assd = monai.compute_average_surface_distance(*pair, symmetric=True, spacing=spacing)[0]
        for label, distance in metrics.surface_distance(a, b, spacing=spacing).items():
            assert distance.hd95 == pytest.approx(float(hd95[label - 1]), rel=1e-5)
            assert distance.assd == pytest.approx(float(assd[label - 1]), rel=1e-5)

    def test_missing_labels(self) -> None:
        a = torch.zeros(6, 6, dtype=torch.long)
        b = a.clone()
        b[2, 2] = 5
        found = metrics.surface_distance(a, b, labels=[5, 7])
        assert found[5].hd95 == found[5].assd == math.inf
        assert math.isnan(found[7].hd95)
        assert math.isnan(found[7].assd)

    def test_refuses(self) -> None:
        a = torch.zeros(6, 6, dtype=torch.long)
        refuses(TypeError, "float32", metrics.surface_distance, a, a.float())
        with pytest.raises(ValueError, match=r"\(1, 1, 6, 6\)"):
            metrics.surface_distance(a[None, None], a[None, None])
        with pytest.raises(ValueError, match=r"2 positive numbers, got \[1.0\]"):
            metrics.surface_distance(a, a, spacing=[1])
        refuses(ValueError, "positive", metrics.surface_distance, a, a, spacing=[1, 0])


class TestEndPointError:
    def test_hand_values(self) -> None:
        truth = torch.zeros(1, 2, 4, 4)
        found = truth.clone()
        found[:, 0], found[:, 1] = 3, 4
        assert metrics.end_point_error(found, truth) == pytest.approx(5)
        # In millimetres: 3 voxels of 2 mm and 4 of 1 mm.
        assert metrics.end_point_error(found, truth, spacing=(2, 1)) == pytest.approx(52**0.5)
        found[..., 0] = 0
        mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
        mask[..., :2] = True
        assert metrics.end_point_error(found, truth, mask=mask) == pytest.approx(2.5)
        errors = metrics.end_point_error_map(found, truth)
        assert errors.shape == (1, 1, 4, 4)
        assert errors[..., 0].max() == 0

    def test_refuses(self) -> None:
        field = torch.zeros(1, 2, 4, 4)
        refuses(ValueError, "2 components", metrics.end_point_error, field[:, :1], field[:, :1])
        refuses(ValueError, "positive", metrics.end_point_error, field, field, spacing=(1, -1))
        with pytest.raises(TypeError, match="boolean"):
            metrics.end_point_error(field, field, mask=torch.ones(1, 1, 4, 4))
        with pytest.raises(ValueError, match=r"\(1, 2, 4, 4\)"):
            metrics.end_point_error(field, field, mask=torch.ones(1, 2, 4, 4, dtype=torch.bool))


class TestInverseConsistencyError:
    def test_a_shift_and_its_inverse(self) -> None:
        shift = torch.zeros(1, 2, 8, 8)
        shift[:, 1] = 1.5
        assert metrics.inverse_consistency_error(shift, -shift) == 0
        assert metrics.inverse_consistency_error(shift, -0.5 * shift) == pytest.approx(0.75)
        assert metrics.inverse_consistency_error(
            shift, -0.5 * shift, spacing=(1, 2)
        ) == pytest.approx(1.5)

    def test_an_inverted_field(self, generator: torch.Generator) -> None:
        velocity = torch.randn(1, 2, 4, 4, generator=generator)
        velocity = torch.nn.functional.interpolate(velocity, (24, 24), mode="bilinear")
        u = plasticine.exponential(velocity)
        inverse = plasticine.invert(u).displacement
        assert metrics.inverse_consistency_error(u, inverse) < 0.05
        assert metrics.inverse_consistency_error(u, -u) > 0.1


class TestLesionContrast:
    def test_hand_values(self) -> None:
        image = torch.zeros(1, 1, 9, 9)
        image[..., ::2] = 1.0  # columns of 1 and 0
        lesions = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
        lesions[0, 0, 4, 4] = True
        image[lesions] = 3.0
        # The four neighbours: two of 1 above and below, two of 0 beside.
        assert metrics.lesion_contrast(image, lesions, width=1) == pytest.approx((3 - 0.5) / 0.5)
        assert metrics.lesion_contrast(-image, lesions, width=1) == pytest.approx(-5)
        mask = torch.ones_like(lesions)
        mask[0, 0, 3, 4] = False
        spread = math.sqrt(1 / 3 - 1 / 9)
        found = metrics.lesion_contrast(image, lesions, mask=mask, width=1)
        assert found == pytest.approx((3 - 1 / 3) / spread)

    def test_nothing_to_compare(self) -> None:
        image = torch.rand(1, 1, 9, 9)
        none = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
        assert math.isnan(metrics.lesion_contrast(image, none))
        assert math.isnan(metrics.lesion_contrast(image, ~none))
        refuses(ValueError, "at least 1", metrics.lesion_contrast, image, none, width=0)
        refuses(TypeError, "boolean", metrics.lesion_contrast, image, image)


class TestSetDistances:
    def test_frechet_equals_scipy(self, generator: torch.Generator) -> None:
        linalg = pytest.importorskip("scipy.linalg")
        a = torch.randn(40, 6, generator=generator, dtype=torch.float64)
        b = 0.5 + 2 * torch.randn(30, 6, generator=generator, dtype=torch.float64)
        first, second = a.T.cov().numpy(), b.T.cov().numpy()
        expected = (
            float((a.mean(0) - b.mean(0)).square().sum())
            + (first + second - 2 * linalg.sqrtm(first @ second).real).trace()
        )
        assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
        assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
        # Fewer images than features: the covariance is singular.
        assert math.isfinite(metrics.frechet_distance(a[:3], b[:4]))

    def test_kernel_by_its_double_sums(self, generator: torch.Generator) -> None:
        a = torch.randn(5, 3, generator=generator, dtype=torch.float64)
        b = 1 + torch.randn(4, 3, generator=generator, dtype=torch.float64)

        def k(x: torch.Tensor, y: torch.Tensor) -> float:
            return float((x.dot(y) / 3 + 1) ** 3)

        expected = sum(k(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20
        expected += sum(k(b[i], b[j]) for i in range(4) for j in range(4) if i != j) / 12
        expected -= 2 * sum(k(x, y) for x in a for y in b) / 20
        assert metrics.kernel_distance(a, b) == pytest.approx(expected)

    def test_kernel_has_no_bias(self, generator: torch.Generator) -> None:
        draws = torch.randn(200, 2, 10, 4, generator=generator)
        distances = torch.tensor([metrics.kernel_distance(a, b) for a, b in draws])
        error = distances.std() / math.sqrt(len(distances))
        assert abs(distances.mean()) < 4 * error

    def test_tell_textures_apart(self, generator: torch.Generator) -> None:
        features = metrics.RandomFeatures()
        images = torch.rand(24, 1, 16, 16, generator=generator)
        smooth = torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1)
        found, same, other = (features(x) for x in (images[:12], images[12:], smooth[:12]))
        assert found.shape == (12, 64)
        for distance in (metrics.frechet_distance, metrics.kernel_distance):
            assert distance(found, other) > 3 * abs(distance(found, same))

    def test_features_are_fixed(self) -> None:
        # Another torch must give the same network, or figures of two machines cannot be compared.
        image = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
        found = metrics.RandomFeatures()(image)[0]
        torch.testing.assert_close(metrics.RandomFeatures()(image, batch=1)[0], found)
        assert metrics.RandomFeatures().weights[0][0, 0, 0, 0] == pytest.approx(-1.0891385675193366)
        assert float(found.sum()) == pytest.approx(14.738815741340467, rel=1e-9)

    def test_refuses(self) -> None:
        features = metrics.RandomFeatures()
        refuses(ValueError, r"within \[0, 1\]", features, torch.full((1, 1, 8, 8), 2.0))
        refuses(ValueError, "at least 8", features, torch.zeros(1, 1, 7, 8))
        refuses(TypeError, "uint8", features, torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
        for distance in (metrics.frechet_distance, metrics.kernel_distance):
            refuses(ValueError, "at least two", distance, torch.zeros(1, 4), torch.zeros(3, 4))
            refuses(ValueError, "4 and 5", distance, torch.zeros(3, 4), torch.zeros(3, 5))
            refuses(TypeError, "int64", distance, torch.zeros(3, 4), torch.zeros(3, 4).long())
