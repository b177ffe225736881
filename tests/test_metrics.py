"""Metrics against hand-computed values and SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from refusal import refuses

from plasticine import metrics


def _pair(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(shape, generator=generator)
    return image, (image + 0.2 * torch.rand(shape, generator=generator)).clamp(0, 1)


class TestPsnr:
    def test_hand_value(self) -> None:
        truth = torch.zeros(2, 1, 4, 4)
        image = truth.clone()
        image[0, 0, 0, 0] = 0.5  # one voxel of 32: MSE = 1/128
        assert metrics.psnr(image, truth) == pytest.approx(10 * math.log10(128))
        assert metrics.psnr(image, truth, data_range=2) == pytest.approx(10 * math.log10(512))

    def test_is_pooled_over_the_slices(self) -> None:
        truth = torch.zeros(2, 1, 4, 4)
        image = truth.clone()
        image[0] = 0.1
        assert metrics.psnr(image[:1], truth[:1]) == pytest.approx(20)
        assert metrics.psnr(image, truth) == pytest.approx(20 + 10 * math.log10(2))

    def test_mask(self) -> None:
        truth = torch.zeros(1, 1, 2, 2)
        image = torch.tensor([[[[1.0, 0.1], [0.1, 1.0]]]])
        mask = torch.tensor([[[[False, True], [True, False]]]])
        assert metrics.psnr(image, truth, mask=mask) == pytest.approx(20)

    def test_equal_images_and_empty_mask(self) -> None:
        image, _ = _pair((1, 1, 5, 5))
        assert metrics.psnr(image, image) == math.inf
        empty = torch.zeros_like(image, dtype=torch.bool)
        assert math.isnan(metrics.psnr(image, image * 0, mask=empty))


class TestSsim:
    def test_constant_images(self) -> None:
        # No structure: only the luminance term is left.
        x, y = torch.full((1, 1, 16, 16), 0.2), torch.full((1, 1, 16, 16), 0.6)
        expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
        assert metrics.ssim(x, y) == pytest.approx(expected, rel=1e-5)

    def test_identity_is_one(self) -> None:
        image, _ = _pair((2, 1, 16, 12))
        assert metrics.ssim(image, image) == pytest.approx(1)

    def test_one_voxel_by_the_definition(self) -> None:
        # The formula written out at the centre of one 11 x 11 window.
        x, y = (t.double() for t in _pair((1, 1, 11, 11)))
        at = torch.arange(-5.0, 6.0, dtype=torch.float64)
        window = torch.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
        window = window / window.sum()
        mean_x, mean_y = (window * x[0, 0]).sum(), (window * y[0, 0]).sum()
        var_x = (window * (x[0, 0] - mean_x) ** 2).sum()
        var_y = (window * (y[0, 0] - mean_y) ** 2).sum()
        cov = (window * (x[0, 0] - mean_x) * (y[0, 0] - mean_y)).sum()
        expected = (2 * mean_x * mean_y + 1e-4) * (2 * cov + 9e-4)
        expected /= (mean_x**2 + mean_y**2 + 1e-4) * (var_x + var_y + 9e-4)
        assert metrics.ssim(x, y) == pytest.approx(float(expected), rel=1e-9)

    @pytest.mark.parametrize("shape", [(31, 24), (14, 13, 12)])
    def test_map_equals_scipy_filters(self, shape: tuple[int, ...]) -> None:
        ndimage = pytest.importorskip("scipy.ndimage")
        x, y = (t.double() for t in _pair((1, 1, *shape)))

        def smooth(t: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(
                ndimage.gaussian_filter(t[0, 0].numpy(), 1.5, truncate=3.5, mode="reflect")
            )

        mx, my = smooth(x), smooth(y)
        vx, vy, cov = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
        expected = (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
        expected /= (mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)
        torch.testing.assert_close(metrics.ssim_map(x, y)[0, 0], expected, atol=1e-10, rtol=0)

    def test_slices_do_not_mix(self) -> None:
        x, y = _pair((3, 1, 20, 16))
        alone = torch.cat([metrics.ssim_map(x[i : i + 1], y[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(metrics.ssim_map(x, y), alone)

    def test_mask_is_the_mean_of_the_map(self) -> None:
        x, y = _pair((1, 1, 20, 16))
        mask = torch.zeros(1, 1, 20, 16, dtype=torch.bool)
        mask[..., :3, :] = True
        expected = float(metrics.ssim_map(x, y)[..., :3, :].mean())
        assert metrics.ssim(x, y, mask=mask) == pytest.approx(expected)

    def test_too_small(self) -> None:
        x, y = _pair((1, 1, 10, 16))
        refuses(ValueError, "at least 11", metrics.ssim, x, y)
        x, y = _pair((1, 1, 4, 16))
        refuses(ValueError, "at least 5", metrics.ssim_map, x, y)


class TestCorrelation:
    def test_hand_value(self) -> None:
        x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 2, 2)
        y = torch.tensor([2.0, 1.0, 4.0, 3.0]).reshape(1, 1, 2, 2)
        assert metrics.correlation(x, y) == pytest.approx(0.6)
        assert metrics.correlation(x, 5 - 2 * x) == pytest.approx(-1)

    def test_mask_and_constant(self) -> None:
        x = torch.tensor([1.0, 2.0, 3.0, 9.0]).reshape(1, 1, 2, 2)
        y = torch.tensor([2.0, 4.0, 6.0, -9.0]).reshape(1, 1, 2, 2)
        assert metrics.correlation(x, y, mask=x < 5) == pytest.approx(1)
        assert math.isnan(metrics.correlation(x, torch.ones_like(x)))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
    @pytest.mark.parametrize("value", [0.0, 0.1, 0.7, -1234.5])
    def test_of_constants_is_undefined(self, value: float, dtype: torch.dtype) -> None:
        """The rounding of their means is no variation."""
        a = torch.full((1, 1, 31, 37), value, dtype=dtype)
        varied = torch.rand(a.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        for pair in ((a, a), (a, a / 3), (a, varied), (varied, a)):
            assert math.isnan(metrics.correlation(*pair))

    @pytest.mark.parametrize("offset", [1.0, -300.0])
    def test_of_nearly_constant_images(self, offset: float) -> None:
        """A faint pattern on a large offset is a pattern, and so is one voxel that differs."""
        drawn = torch.rand(1, 1, 20, 24, generator=torch.Generator().manual_seed(0))
        pattern = drawn.double() * 1e-3
        faint = (offset + pattern).float()
        expected = np.corrcoef(faint.double().numpy().ravel(), pattern.numpy().ravel())[0, 1]
        assert metrics.correlation(faint, pattern.float()) == pytest.approx(expected, rel=1e-6)
        assert metrics.correlation(faint, 2 - 3 * faint.double().float()) < -0.99
        single = torch.full((1, 1, 20, 24), offset)
        single[0, 0, 3, 4] += 1e-3
        assert metrics.correlation(single, single) == pytest.approx(1)
        assert metrics.correlation(1e200 * pattern, pattern) == pytest.approx(1)


class TestDice:
    def test_hand_values(self) -> None:
        a = torch.tensor([[0, 1, 1, 2], [0, 1, 3, 3]])
        b = torch.tensor([[0, 1, 0, 2], [0, 1, 2, 4]])
        scores = metrics.dice(a, b)
        assert list(scores) == [1, 2, 3, 4]
        assert scores[1] == pytest.approx(4 / 5)
        assert scores[2] == pytest.approx(2 / 3)
        assert scores[3] == 0
        assert scores[4] == 0

    def test_chosen_labels(self) -> None:
        a = torch.tensor([0, 0, 1])
        scores = metrics.dice(a, a, labels=[0, 7])
        assert scores[0] == 1
        assert math.isnan(scores[7])
        assert metrics.dice(a.bool(), a.bool()) == {1: 1.0}

    def test_refuses(self) -> None:
        a = torch.tensor([0, 1])
        refuses(TypeError, "float32", metrics.dice, a.float(), a)
        refuses(ValueError, r"\(2,\).*\(3,\)", metrics.dice, a, torch.tensor([0, 1, 1]))


class TestMasks:
    @pytest.mark.parametrize(("name", "filled"), [("erode", 0.95), ("dilate", 0.03)])
    @pytest.mark.parametrize("shape", [(2, 1, 17, 14), (1, 2, 9, 10, 11)])
    @pytest.mark.parametrize("distance", [0, 1, 3])
    def test_equals_scipy(
        self, shape: tuple[int, ...], distance: int, name: str, filled: float
    ) -> None:
        ndimage = pytest.importorskip("scipy.ndimage")
        theirs = {"erode": ndimage.binary_erosion, "dilate": ndimage.binary_dilation}[name]
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 1 - filled
        found = getattr(metrics, name)(mask, distance).flatten(0, 1)
        for one, before in zip(found.numpy(), mask.flatten(0, 1).numpy(), strict=True):
            # scipy reads iterations=0 as "until nothing changes".
            expected = theirs(before, iterations=distance) if distance else before
            assert (one == expected).all()

    def test_square_loses_a_diamond(self) -> None:
        mask = torch.zeros(1, 1, 11, 11, dtype=torch.bool)
        mask[..., 1:10, 1:10] = True
        assert int(metrics.erode(mask, 4).sum()) == 1
        assert int(metrics.erode(mask, 5).sum()) == 0

    def test_refuses(self) -> None:
        refuses(TypeError, "uint8", metrics.erode, torch.ones(1, 1, 4, 4, dtype=torch.uint8), 1)
        refuses(ValueError, "got -1", metrics.erode, torch.ones(1, 1, 4, 4, dtype=torch.bool), -1)
        refuses(ValueError, r"\(4, 4\)", metrics.erode, torch.ones(4, 4, dtype=torch.bool), 1)


class TestEvaluateTranslation:
    def test_puts_the_parts_together(self) -> None:
        translated, truth = _pair((2, 1, 24, 20))
        mask = torch.zeros(2, 1, 24, 20, dtype=torch.bool)
        mask[:, :, 3:21, 3:17] = True
        inside = metrics.erode(mask, 4)
        score = metrics.evaluate_translation(translated, truth, mask=mask)
        assert score.psnr == metrics.psnr(translated, truth)
        assert score.ssim == metrics.ssim(translated, truth)
        assert score.psnr_inside == metrics.psnr(translated, truth, mask=inside)
        assert score.ssim_inside == metrics.ssim(translated, truth, mask=inside)
        assert score.correlation_inside == metrics.correlation(translated, truth, mask=inside)
        assert score.erosion == 4
        assert score.voxels_inside == int(inside.sum())
        assert "eroded by 4 voxels" in str(score)

    def test_inside_ignores_the_background(self) -> None:
        _, truth = _pair((1, 1, 40, 40))
        mask = torch.zeros(1, 1, 40, 40, dtype=torch.bool)
        mask[..., 5:35, 5:35] = True
        translated = torch.where(mask, truth, 1 - truth)
        score = metrics.evaluate_translation(translated, truth, mask=mask, erosion=6)
        assert score.psnr < 20
        assert score.psnr_inside == math.inf
        assert score.ssim_inside == pytest.approx(1)
        assert score.ssim < 0.9

    def test_without_mask(self) -> None:
        translated, truth = _pair((1, 1, 12, 12))
        score = metrics.evaluate_translation(translated, truth)
        assert score.psnr_inside is None
        assert score.voxels_inside is None
        assert "mask" not in str(score)

    def test_refuses(self) -> None:
        translated, truth = _pair((1, 1, 12, 12))
        mask = torch.ones(1, 1, 12, 12, dtype=torch.bool)
        with pytest.raises(ValueError, match="nothing is left"):
            metrics.evaluate_translation(translated, truth, mask=mask, erosion=9)
        with pytest.raises(TypeError, match=r"boolean.*float32"):
            metrics.evaluate_translation(translated, truth, mask=mask.float())
        with pytest.raises(ValueError, match=r"\(1, 1, 12, 12\).*\(1, 1, 12, 11\)"):
            metrics.evaluate_translation(translated, truth, mask=mask[..., 1:])
        with pytest.raises(ValueError, match=r"\(1, 1, 12, 12\) and \(1, 1, 12, 11\)"):
            metrics.evaluate_translation(translated, truth[..., 1:])
        refuses(TypeError, "int64", metrics.evaluate_translation, translated.long(), truth)
        with pytest.raises(ValueError, match=r"\(12, 12\)"):
            metrics.evaluate_translation(translated[0, 0], truth[0, 0])
        refuses(ValueError, "positive number", metrics.psnr, translated, truth, data_range=0)


_ARRAY = np.zeros((1, 1, 12, 12), np.float32)
_IMAGE = torch.zeros(1, 1, 12, 12)
_MASK = _IMAGE.bool()
_FIELD = torch.zeros(1, 2, 12, 12)


@pytest.mark.parametrize(
    ("figure", "arguments", "name"),
    [
        (metrics.psnr, (_ARRAY, _IMAGE), "image"),
        (metrics.psnr, (_IMAGE, _ARRAY), "truth"),
        (metrics.ssim, (_ARRAY, _ARRAY), "image"),
        (metrics.ssim_map, (_ARRAY, _IMAGE), "image"),
        (metrics.correlation, (_IMAGE, _ARRAY), "truth"),
        (metrics.evaluate_translation, (_ARRAY, _ARRAY), "translated"),
        (metrics.dice, (_ARRAY > 0, _MASK), "first"),
        (metrics.dice, (_MASK, _ARRAY > 0), "second"),
        (metrics.surface_distance, (_ARRAY[0, 0] > 0, _MASK[0, 0]), "first"),
        (metrics.dilate, (_ARRAY > 0, 1), "mask"),
        (metrics.erode, (_ARRAY > 0, 1), "mask"),
        (metrics.lesion_contrast, (_ARRAY, _MASK), "image"),
        (metrics.lesion_contrast, (_IMAGE, _ARRAY > 0), "mask"),
        (metrics.end_point_error, (_ARRAY, _FIELD), "displacement"),
        (metrics.end_point_error_map, (_FIELD, _ARRAY), "truth"),
        (metrics.inverse_consistency_error, (_FIELD, _ARRAY), "inverse"),
        (metrics.frechet_distance, (_ARRAY[0, 0], _IMAGE[0, 0]), "first"),
        (metrics.kernel_distance, (_IMAGE[0, 0], _ARRAY[0, 0]), "second"),
        (metrics.RandomFeatures(), (_ARRAY,), "images"),
    ],
)
def test_arrays_are_refused_by_name(
    figure: Callable[..., object], arguments: tuple[object, ...], name: str
) -> None:
    message = f"{name}: expected a torch.Tensor, got numpy.ndarray; torch.from_numpy"
    refuses(TypeError, message, figure, *arguments)


def test_masks_that_are_arrays_are_refused() -> None:
    for call in (
        lambda: metrics.psnr(_IMAGE, _IMAGE, mask=_ARRAY > 0),
        lambda: metrics.end_point_error(_FIELD, _FIELD, mask=_ARRAY > 0),
    ):
        refuses(TypeError, r"mask: expected a torch.Tensor, got numpy.ndarray", call)
