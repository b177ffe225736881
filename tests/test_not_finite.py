"""NaN and infinity are refused where they come in, and never handed on or written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusal import refuses
from small_models import untrained
from torch import Tensor

from plasticine import metrics, structure
from plasticine.io import read_volume, translate_volume
from plasticine.nn.finite import check_finite, not_finite
from plasticine.registration import (
    Level,
    VelocityRegistration,
    nearest_targets,
    transport_plan,
)
from plasticine.report import write_results
from plasticine.translation import Translator

QUICK = VelocityRegistration((Level(1, 2),))


def _image(value: float | None = None, place: tuple[int, ...] = (1, 0, 3, 5)) -> Tensor:
    image = torch.rand(2, 1, 16, 18, generator=torch.Generator().manual_seed(0))
    if value is not None:
        image[place] = value
    return image


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["moving", "fixed"])
def test_an_optimisation_refuses_images(name: str, value: float) -> None:
    images = {"moving": _image(), "fixed": _image()} | {name: _image(value)}
    message = rf"{name} must be finite; 1 of 576 values is NaN or infinite.*\(1, 0, 3, 5\)"
    refuses(ValueError, message, QUICK, **images)


def test_an_optimisation_refuses_a_start() -> None:
    velocity = torch.zeros(2, 2, 16, 18)
    velocity[0, 1, 2:4, 7] = torch.nan
    with pytest.raises(ValueError, match=r"initial must be finite; 2 of 1152.*\(0, 1, 2, 7\)"):
        QUICK(_image(), _image(), initial=velocity)
    affine = torch.eye(3)[None, :2].repeat(2, 1, 1)
    broken = affine.masked_fill(affine == 0, torch.inf)
    with pytest.raises(ValueError, match="affine must be finite; 8 of 12 values are"):
        QUICK(_image(), _image(), affine=broken)


def test_an_optimisation_that_diverges_says_so() -> None:
    wild = dataclasses.replace(QUICK, step=3e38)
    with pytest.raises(RuntimeError, match=r"diverged at Level\(factor=1.*lower step"):
        wild(_image(), _image().roll(3, 2))


@pytest.mark.parametrize("name", ["image", "reference"])
def test_a_translator_refuses_images(name: str) -> None:
    images = {"image": _image(), "reference": _image()} | {name: _image(torch.nan)}
    with pytest.raises(ValueError, match=f"{name} must lie within .0, 1., without NaN"):
        untrained().translate(images["image"], reference=images["reference"])


@pytest.mark.parametrize("part", ["denoiser", "velocity"])
def test_a_translator_hands_nothing_on_that_is_not_finite(part: str) -> None:
    translator = untrained()
    with torch.no_grad():
        weights = list(getattr(translator.model, part).parameters())
        weights[-1].view(-1)[0] = torch.nan
    what = "warped" if part == "velocity" else "translated"
    message = f"translation by untrained is of no use: of {what}, .* of 576 values are NaN"
    refuses(RuntimeError, message, translator.translate, _image())


def test_a_trace_hands_on_no_jacobian_that_is_not_finite() -> None:
    trace = untrained().translate(_image())
    far = dataclasses.replace(trace, displacement=1e30 * trace.displacement)
    with pytest.raises(ValueError, match="jacobian must be finite"):
        _ = far.jacobian


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("translated", torch.nan, "translated must be finite; 1 of 616 values is NaN"),
        ("translated", 1.5, r"translated must lie within \[0, 1\]; got 0.* to 1.5"),
        ("warped", torch.inf, "warped must be finite"),
        ("displacement", torch.nan, "displacement must be finite"),
        ("jacobian", -torch.inf, "jacobian must be finite"),
    ],
)
def test_nothing_is_written_of_a_result_that_is_not_finite(
    name: str, value: float, message: str, model_file: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", (np.indices((1, 28, 22)).sum(0) * 4).astype(np.uint8))
    result = translate_volume(Translator.load(model_file), read_volume(tmp_path / "a.npy"), steps=1)
    tensor = getattr(result, name).clone()
    tensor[0, 0, 2, 3] = value
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=message):
        write_results(dataclasses.replace(result, **{name: tensor}), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["mind", "contour", "kmeans", "multi-otsu"])
def test_structure_maps_refuse_images(name: str) -> None:
    with pytest.raises(ValueError, match=r"image must be finite; 1 of 576 .*\(1, 0, 3, 5\)"):
        structure.create(name, 2)(_image(torch.nan))


@pytest.mark.parametrize("distance", [metrics.frechet_distance, metrics.kernel_distance])
@pytest.mark.parametrize("name", ["first", "second"])
def test_distances_refuse_features(distance: Callable[..., float], name: str) -> None:
    drawn = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0))
    features = dict(zip(("first", "second"), drawn, strict=True))
    features[name][2:4, 1] = torch.nan
    message = rf"{name} must be finite; 2 of 15 values are NaN or infinite.*\(2, 1\)"
    refuses(ValueError, message, distance, **features)


@pytest.mark.parametrize("figure", [metrics.psnr, metrics.ssim, metrics.correlation])
def test_figures_of_nan_are_nan(figure: Callable[..., Any]) -> None:
    assert np.isnan(figure(_image(torch.nan), _image()))
    assert np.isnan(figure(_image(), _image(torch.nan)))


def test_pairing_refuses_what_it_cannot_compare() -> None:
    broken = torch.tensor([[0.0, 1.0], [torch.nan, 2.0]])
    refuses(ValueError, r"distance must be finite; 1 of 4 .*\(1, 0\)", transport_plan, broken, 0.1)
    refuses(ValueError, "source must be finite", nearest_targets, broken, torch.zeros(3, 2), 1)
    refuses(ValueError, "target must be finite", nearest_targets, torch.zeros(3, 2), broken, 1)


def test_psnr_of_an_infinite_error() -> None:
    assert metrics.psnr(_image(torch.inf), _image()) == -np.inf


def test_where_a_tensor_is_not_finite() -> None:
    assert not_finite(torch.zeros(0, 3)) is None
    assert not_finite(torch.ones(2, 2, dtype=torch.float16)) is None
    check_finite(torch.ones(3, dtype=torch.float64), "x")
