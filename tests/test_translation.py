"""Model files, the translator and its trace."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from refusal import refuses
from small_models import images, untrained

import plasticine
from plasticine import gaussian_smooth
from plasticine.metrics import intensity_residual
from plasticine.nn.points import move_points
from plasticine.nn.tensor_file import load_tensors, save_tensors
from plasticine.registration import Level, Similarity, VelocityRegistration
from plasticine.translation import (
    ModelError,
    Translator,
    load_model,
    save_model,
)
from plasticine.translation.sampling import Sampling

CARD = {"name": "test", "title": "a test"}


@pytest.mark.parametrize("size", [(20, 24), (15, 18), (9, 12, 10)])
def test_a_trace_is_consistent_with_itself(size: tuple[int, ...]) -> None:
    image = images(2, 1, *size)
    trace = untrained(len(size)).translate(image)
    ndim = len(size)
    for name in ("warped", "translated", "jacobian", "residual", "inverse_consistency"):
        field = getattr(trace, name)
        assert field.shape == image.shape, name
        assert field.dtype == torch.float32
        assert torch.isfinite(field).all()
    assert trace.valid.shape == image.shape
    assert trace.valid.dtype == torch.bool
    assert trace.displacement.shape == trace.inverse_displacement.shape == (2, ndim, *size)
    assert trace.translated.min() >= 0
    assert trace.translated.max() <= 1
    assert trace.displacement.abs().max() > 1e-4
    torch.testing.assert_close(
        trace.warped, plasticine.warp(image, trace.displacement), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(trace.jacobian, plasticine.jacobian_determinant(trace.displacement))
    assert trace.folding.folds.shape == trace.structure_agreement.shape == (2,)
    assert trace.seconds > 0
    assert trace.arguments["steps"] == 3


def test_without_deformation_the_shape_stays() -> None:
    image = images(1, 1, 20, 24)
    trace = untrained().translate(image, deform=False)
    assert torch.equal(trace.warped, image)
    assert not trace.displacement.any()
    assert (trace.jacobian == 1).all()
    assert trace.folding.folds.item() == 0
    assert trace.valid.all()


def test_an_untrained_velocity_network_is_the_identity() -> None:
    image = images(1, 1, 20, 24)
    translator = untrained(still=True)
    moved = translator.translate(image)
    assert not moved.displacement.any()
    assert torch.equal(moved.translated, translator.translate(image, deform=False).translated)


def test_a_reference_steers_the_deformation() -> None:
    image, reference = images(1, 1, 16, 16), images(1, 1, 16, 16).flip(3)
    translator = untrained()
    alone = translator.translate(image).displacement
    steered = translator.translate(image, reference=reference)
    assert steered.arguments["reference"] is True
    assert not torch.allclose(alone, steered.displacement)


class TestInstanceOptimisation:
    """Of a translation with a reference."""

    QUICK = VelocityRegistration(
        (Level(2, 6, 3.0), Level(1, 4, 3.0)), Similarity("mind", dilations=(1,))
    )

    def _pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Smooth images, and the same three voxels further, in another contrast."""
        images = gaussian_smooth(
            torch.randn(3, 1, 24, 28, generator=torch.Generator().manual_seed(3)), 2.0
        )
        images = (images - images.amin()) / (images.amax() - images.amin())
        return images, 1 - images.roll(2, 3)

    def test_starts_from_the_networks_answer_and_ends_nearer_to_the_reference(self) -> None:
        image, reference = self._pair()
        translator = untrained()
        predicted = translator.translate(image, reference=reference)
        optimised = translator.translate(image, reference=reference, optimise=self.QUICK)
        inside = (..., slice(4, -4), slice(4, -4))
        apart = [
            (trace.warped - (1 - reference))[inside].abs().mean()
            for trace in (predicted, optimised)
        ]
        assert apart[1] < 0.9 * apart[0]
        assert predicted.arguments["optimise"] is None
        assert optimised.arguments["optimise"] == dataclasses.asdict(self.QUICK)
        json.dumps(optimised.arguments)
        nearly = dataclasses.replace(self.QUICK, levels=(Level(1, 1),), step=1e-6, total_sigma=0.0)
        still = translator.translate(image, reference=reference, optimise=nearly)
        torch.testing.assert_close(still.displacement, predicted.displacement, atol=1e-4, rtol=0)

    def test_an_image_does_not_depend_on_its_batch_and_progress_counts_everything(self) -> None:
        image, reference = self._pair()
        calls: list[tuple[int, int]] = []
        together, apart = (
            untrained().translate(
                image,
                reference=reference,
                optimise=self.QUICK,
                batch=size,
                progress=lambda done, total: calls.append((done, total)),
            )
            for size in (3, 2)
        )
        torch.testing.assert_close(together.displacement, apart.displacement, atol=1e-3, rtol=0)
        once, twice = 10 + 3, 2 * (10 + 3)
        expected = [(done, once) for done in range(1, once + 1)]
        assert calls == expected + [(done, twice) for done in range(1, twice + 1)]

    def test_the_slices_of_a_volume_keep_one_deformation(self) -> None:
        image, reference = self._pair()
        common = {"reference": reference, "slice_smoothing": 1.5}
        translator = untrained()
        predicted = translator.translate(image, **common)
        whole, halves = (
            translator.translate(image, **common, optimise=self.QUICK, batch=size)
            for size in (3, 2)
        )
        assert whole.folding.folds.shape == (1,)
        assert (whole.displacement - predicted.displacement).abs().max() > 0.1
        torch.testing.assert_close(whole.displacement, halves.displacement, atol=1e-3, rtol=0)
        alone = translator.translate(image, reference=reference, optimise=self.QUICK)
        rough = [t.displacement.diff(dim=0).abs().mean() for t in (whole, alone)]
        assert rough[0] < 0.7 * rough[1]

    def test_is_refused_without_anything_to_register_to(self) -> None:
        image, _ = self._pair()
        with pytest.raises(ValueError, match="instance optimisation needs a reference"):
            untrained().translate(image, optimise=self.QUICK)
        with pytest.raises(ValueError, match="instance optimisation moves the source"):
            untrained().translate(image, optimise=self.QUICK, deform=False)


def test_points_and_labels_follow_the_deformation() -> None:
    trace = untrained().translate(images(1, 1, 20, 24))
    points = torch.tensor([[[3.0, 4.0], [10.0, 12.0], [7.5, 8.25]]])
    moved = trace.to_source(points)
    assert torch.equal(moved[0, 0], points[0, 0] + trace.displacement[0, :, 3, 4])
    torch.testing.assert_close(trace.to_target(moved), points, atol=0.02, rtol=0)
    labels = torch.arange(480).view(1, 1, 20, 24)
    carried = trace.labels_to_target(labels)
    assert carried.dtype == torch.int64
    origin = (points[0, 0] + trace.displacement[0, :, 3, 4]).round().long()
    assert carried[0, 0, 3, 4] == labels[0, 0, origin[0], origin[1]]
    refuses(TypeError, "float32", trace.labels_to_target, labels.float())
    with pytest.raises(ValueError, match=r"\(1, 1, 20, 24\); got \(1, 1, 20, 25\)"):
        trace.labels_to_target(torch.zeros(1, 1, 20, 25, dtype=torch.uint8))
    refuses(ValueError, r"\(1, M, 2\); got \(1, 3, 3\)", trace.to_source, torch.zeros(1, 3, 3))


def test_points_move_by_the_interpolated_field_in_3d() -> None:
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in (5, 6, 7)), indexing="ij")
    field = torch.stack([axes[0] + axes[1], axes[2], -axes[0]])[None]
    points = torch.tensor([[[1.5, 2.0, 3.25], [0.0, 5.0, 6.0]]])
    expected = points + torch.tensor([[[3.5, 3.25, -1.5], [5.0, 6.0, 0.0]]])
    torch.testing.assert_close(move_points(points, field), expected)


def test_residual_of_pure_recolouring_is_zero(generator: torch.Generator) -> None:
    warped = torch.randint(0, 64, (2, 1, 8, 8), generator=generator) / 63
    torch.testing.assert_close(
        intensity_residual(1 - warped**2, warped), torch.zeros_like(warped), atol=1e-6, rtol=0
    )
    added = 1 - warped**2
    added[0, 0, 0, 0] += 0.5
    assert intensity_residual(added, warped)[0, 0, 0, 0] > 0.3


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.zeros(1, 1, 8, 8, dtype=torch.float64), TypeError, "float32.*got torch.float64"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), TypeError, "float32.*got torch.uint8"),
        (torch.zeros(1, 2, 8, 8), ValueError, r"\(N, 1, \*spatial\).*got \(1, 2, 8, 8\)"),
        (torch.zeros(8, 8), ValueError, r"got \(8, 8\)"),
        (torch.zeros(0, 1, 8, 8), ValueError, "not empty"),
        (torch.full((1, 1, 8, 8), torch.nan), ValueError, "without NaN; got nan"),
        (torch.full((1, 1, 8, 8), 2.0), ValueError, r"\[0, 1\].*got 2.0 to 2.0"),
    ],
)
def test_wrong_images_are_refused(
    image: torch.Tensor, error: type[Exception], message: str
) -> None:
    refuses(error, message, untrained().translate, image)


def test_wrong_arguments_are_refused() -> None:
    translator, image = untrained(), images(1, 1, 8, 8)
    refuses(ValueError, "steps and samples", translator.translate, image, steps=0)
    refuses(ValueError, "start", translator.translate, image, start=1.5)
    for seed in (2**70, 2**48, -1):
        with pytest.raises(ValueError, match=rf"seed must lie within 0 … {2**48 - 1} .*got {seed}"):
            translator.translate(image, seed=seed)
    assert type(Sampling(seed=np.int64(3)).seed) is int
    for seed in (1.0, "1", None):
        refuses(TypeError, "seed must be a whole number; got", Sampling, seed=seed)
    with pytest.raises(TypeError, match=r"image must be a torch\.Tensor, got ndarray"):
        translator.translate(image.numpy())
    with pytest.raises(TypeError, match=r"reference must be a torch\.Tensor, got ndarray"):
        translator.translate(image, reference=image.numpy())
    with pytest.raises(ValueError, match="reference must have"):
        translator.translate(image, reference=images(1, 1, 8, 9))
    refuses(ValueError, "deform=False", translator.translate, image, reference=image, deform=False)


def test_a_model_file_holds_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    translator = untrained()
    save_model(path, translator.model, CARD)
    loaded = Translator.load(path)
    assert loaded.card == CARD | {"ndim": 2}  # that of the networks
    for name, tensor in translator.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor.half().float()), name
    assert loaded.translate(images(1, 1, 8, 8)).model == CARD


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    refuses(ModelError, "'nothing': neither a file nor a shipped name", Translator.load, "nothing")
    path = tmp_path / "model.safetensors"
    path.write_text("not a model")
    refuses(ModelError, r"model\.safetensors is not a safetensors file", load_model, path)
    save_tensors(path, {"t": torch.zeros(1)}, {})
    refuses(ModelError, r"not a Plasticine model: expected.*got None", load_model, path)
    save_model(path, untrained().model, CARD)
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, metadata | {"format_version": 99})
    refuses(ModelError, "format version 99; this Plasticine reads version 1", load_model, path)
    tensors.popitem()
    save_tensors(path, tensors, metadata)
    refuses(ModelError, "is a damaged model", load_model, path)
