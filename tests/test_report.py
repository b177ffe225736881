"""A volume translated in its own space, and the folder that is written of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from image_files import oblique, reoriented, sitk
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from small_models import NORMALISATION, deforming

from plasticine.io import Volume, VolumeTrace, read_displacement, read_volume, translate_volume
from plasticine.ops.jacobian import jacobian_determinant
from plasticine.ops.warp import warp
from plasticine.registration import stack_folding
from plasticine.report import RESULT_FILES, describe, draw_page, print_results, write_results
from plasticine.report.record import as_plain
from plasticine.translation import Translator

Written = tuple[VolumeTrace, Path, Path]
"""A translation, the folder it was written to, and the file it is of."""


@pytest.fixture(scope="module")
def translator(model_file: Path) -> Translator:
    return Translator.load(model_file)


def _head(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """A smooth ball with texture and ventricles, intensities up to about 900, nothing outside."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    texture = np.cos(7 * axes[0] + 1) * np.cos(6 * axes[1]) * np.cos(5 * axes[2])
    inside = 1 / (1 + np.exp(25 * (radius - 0.75)))
    image = 900 * inside * (0.6 + 0.2 * texture - 0.3 * np.exp(-20 * radius**2))
    return np.where(image > 5, image, 0).astype(np.float32)


def _stored(path: Path, orientation: str, shape: tuple[int, int, int] = (52, 44, 10)) -> Path:
    """An oblique, anisotropic NIfTI of 1.4 x 1.7 x 5 mm, stored along the axes asked for."""
    image = nibabel.Nifti1Image(_head(shape), oblique((1.4, 1.7, 5.0)))
    nibabel.save(reoriented(image, orientation), path)
    return path


def _data(path: Path) -> NDArray[np.float32]:
    return np.asarray(nibabel.load(path).dataobj)


def _check_with_simpleitk(folder: Path, source: Path, result: VolumeTrace) -> None:
    """displacement.nii.gz, applied by SimpleITK to the source's file, gives warped.nii.gz."""
    moving = sitk.ReadImage(str(source), sitk.sitkFloat64)
    vectors = sitk.ReadImage(str(folder / "displacement.nii.gz"), sitk.sitkVectorFloat64)
    expected = sitk.ReadImage(str(folder / "warped.nii.gz"), sitk.sitkFloat64)
    assert vectors.GetNumberOfComponentsPerPixel() == 3
    assert vectors.GetSize() == moving.GetSize() == expected.GetSize()
    np.testing.assert_allclose(vectors.GetDirection(), moving.GetDirection(), atol=1e-5)
    resample = sitk.ResampleImageFilter()
    resample.SetReferenceImage(moving)
    resample.SetTransform(sitk.DisplacementFieldTransform(vectors))
    resample.SetInterpolator(sitk.sitkLinear)
    theirs = sitk.GetArrayFromImage(resample.Execute(moving))
    ours = sitk.GetArrayFromImage(expected)
    untouched = sitk.GetArrayFromImage(moving)
    assert np.abs(ours - untouched).max() > 0.05 * ours.max()  # there is something to get wrong
    # Outside of the image ITK gives 0 where we repeat the border.
    valid = result.grid.to_file(result.valid.float()).transpose(2, 1, 0) == 1
    assert valid.mean() > 0.5
    np.testing.assert_allclose(theirs[valid], ours[valid], atol=1e-4 * ours.max())


@pytest.fixture(scope="module")
def written(
    translator: Translator, model_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Written:
    """One translation of an oblique file with axes A, I, L, and its folder."""
    folder = tmp_path_factory.mktemp("written")
    source = _stored(folder / "source.nii.gz", "AIL")
    result = translate_volume(translator, read_volume(source), seed=5)
    write_results(result, folder, model_file=model_file)
    return result, folder, source


class TestResults:
    def test_simpleitk_gives_the_warped_image(self, written: Written) -> None:
        result, folder, source = written
        assert result.grid.resampled
        _check_with_simpleitk(folder, source, result)

    @pytest.mark.parametrize("orientation", ["RAS", "LPS", "SPR"])
    def test_simpleitk_in_other_orientations(
        self, translator: Translator, tmp_path: Path, orientation: str
    ) -> None:
        source = _stored(tmp_path / "source.nii.gz", orientation, (30, 28, 4))
        result = translate_volume(translator, read_volume(source))
        write_results(result, tmp_path)
        _check_with_simpleitk(tmp_path, source, result)

    def test_everything_lies_in_the_inputs_space(self, written: Written) -> None:
        _, folder, source = written
        input_image = nibabel.load(source)
        assert {p.name for p in folder.iterdir()} == {*RESULT_FILES, source.name}
        for name in ("translated", "warped", "jacobian", "displacement"):
            image = nibabel.load(folder / f"{name}.nii.gz")
            assert image.shape[:3] == input_image.shape
            assert image.get_data_dtype() == np.float32
            np.testing.assert_allclose(image.affine, input_image.affine, rtol=1e-5, atol=1e-4)
        assert nibabel.load(folder / "displacement.nii.gz").shape[3:] == (1, 3)
        translated = _data(folder / "translated.nii.gz")
        assert translated.min() >= 0
        assert translated.max() <= 1

    def test_files_agree_with_each_other(self, written: Written) -> None:
        # The three-dimensional operators on the files give what slices in two dimensions gave.
        _, folder, source = written
        field, _ = read_displacement(folder / "displacement.nii.gz")
        u = torch.from_numpy(field)[None]
        image = torch.from_numpy(_data(source).astype(np.float32))[None, None]
        np.testing.assert_allclose(
            warp(image, u)[0, 0].numpy(), _data(folder / "warped.nii.gz"), atol=0.05
        )
        jacobian = jacobian_determinant(u)[0, 0].numpy()
        np.testing.assert_allclose(jacobian, _data(folder / "jacobian.nii.gz"), atol=1e-4)
        assert np.abs(field).max() > 1
        assert np.abs(jacobian - 1).max() > 0.1
        # File axis 1 runs to Inferior: across slices nothing moves.
        assert np.abs(field[1]).max() < 1e-5

    def test_displacement_is_the_models_in_millimetres(self, written: Written) -> None:
        result, _, _ = written
        grid, model = result.grid, result.trace.displacement
        assert grid.input_spacing == pytest.approx((1.7, 1.4), rel=1e-5)
        assert tuple(model.shape[2:]) == grid.model_shape != grid.input_shape
        # Input voxel (20, 10) lies at 34 and 14 mm: model voxel (17, 7).
        theirs = model[:, :, 17, 7] * 2.0
        ours = result.displacement[:, :, 20, 10] * torch.tensor([1.7, 1.4])
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(
            result.translated[:, :, 20, 10],
            result.trace.translated[:, :, 17, 7],
            atol=1e-3,
            rtol=1e-3,
        )

    def test_record(self, written: Written, model_file: Path) -> None:
        result, folder, source = written
        record = json.loads((folder / "trace.json").read_text(encoding="utf-8"))
        assert record["seed"] == 5
        assert record["arguments"]["deform"] is True
        assert record["arguments"]["steps"] == 2
        assert set(record["versions"]) >= {"plasticine", "torch", "python"}
        assert record["model"]["name"] == "small"
        assert record["model"]["card"]["orientation"] == "SPR"
        checksum = hashlib.sha256(model_file.read_bytes()).hexdigest()
        assert record["model"]["sha256"] == checksum
        assert record["input"]["file"] == str(source)
        assert record["input"]["orientation"] == "AIL"
        assert record["input"]["spacing_mm"] == pytest.approx([1.7, 5.0, 1.4], rel=1e-5)
        assert record["grid"]["resampled"] is True
        assert "interpolated" in record["grid"]["description"]
        assert record["files"] == RESULT_FILES
        assert record["normalisation"]["clipped_above"] == int(
            (result.grid.to_images(result.volume.data) > result.normalisation.divisor).sum()
        )
        assert record["normalisation"]["clipped_above"] > 0

    def test_jacobian_and_folds_are_those_of_the_files_alone(self, written: Written) -> None:
        """On the model's own grid nobody has asked for them."""
        trace = written[0].trace
        assert not {"jacobian", "valid", "folding"} & vars(trace).keys()
        asked = dataclasses.replace(trace)
        assert torch.equal(asked.jacobian, jacobian_determinant(trace.displacement))
        assert asked.jacobian is asked.jacobian
        assert asked.folding.folds.tolist() == [0]  # of the volume

    def test_record_counts_folds(self, written: Written) -> None:
        result, _, _ = written
        expected = stack_folding(result.displacement)  # one φ for the volume
        recorded = describe(result)["folding"]
        assert (recorded["scheme"], recorded["region"]) == ("central", "full")
        assert recorded["folds"] == int(expected.folds.sum())
        assert recorded["minimum"] == pytest.approx(float(expected.minimum.min()))
        assert recorded["per_image"]["maximum"] == pytest.approx(expected.maximum.tolist())
        logarithm = result.jacobian.double().log()
        assert recorded["sd_log_jacobian"] == pytest.approx(
            float((logarithm - logarithm.mean()).square().mean().sqrt())
        )
        lengths = (result.displacement * torch.tensor([1.7, 1.4]).reshape(1, 2, 1, 1)).norm(dim=1)
        metrics = describe(result)["metrics"]
        assert metrics["displacement_max_mm"] == pytest.approx(float(lengths.max()), rel=1e-4)

    def test_undefined_numbers_are_words(self, written: Written) -> None:
        result, _, _ = written
        trace = dataclasses.replace(
            result.trace, structure_agreement=torch.full((10,), torch.nan), seconds=float("inf")
        )
        record = describe(dataclasses.replace(result, trace=trace))
        assert record["seconds"] == "inf"
        assert record["metrics"]["structure_agreement_mean"] == "nan"
        json.dumps(record, allow_nan=False)


class TestTranslateVolume:
    def test_without_deformation_the_shape_stays(
        self, translator: Translator, tmp_path: Path
    ) -> None:
        source = _stored(tmp_path / "source.nii.gz", "PSR", (30, 28, 3))
        result = translate_volume(translator, read_volume(source), deform=False)
        write_results(result, tmp_path)
        np.testing.assert_array_equal(_data(tmp_path / "warped.nii.gz"), _data(source))
        assert not _data(tmp_path / "displacement.nii.gz").any()
        np.testing.assert_array_equal(_data(tmp_path / "jacobian.nii.gz"), 1)
        assert result.valid.all()

    def test_seed(self, translator: Translator, tmp_path: Path) -> None:
        volume = read_volume(_stored(tmp_path / "source.nii.gz", "RAS", (30, 28, 3)))
        first, again = (translate_volume(translator, volume, seed=1) for _ in range(2))
        other = translate_volume(translator, volume, seed=2)
        assert torch.equal(first.translated, again.translated)
        assert not torch.equal(first.translated, other.translated)
        assert torch.equal(first.displacement, other.displacement)

    @pytest.mark.parametrize("single", [True, False])
    def test_arrays_are_taken_at_the_models_grid(
        self, translator: Translator, tmp_path: Path, single: bool
    ) -> None:
        stack = np.ascontiguousarray(_head((40, 36, 3)).transpose(2, 0, 1))
        path = tmp_path / "a.npy"
        np.save(path, stack[1] if single else stack)
        result = translate_volume(translator, read_volume(path))
        write_results(result, tmp_path)
        # The model itself, given the same slices.
        images = torch.from_numpy(stack[1:2] if single else stack)[:, None]
        divisor = float(np.percentile(images[images > 0].numpy(), 99.9))
        trace = translator.translate((images / divisor).clamp(0, 1))
        direct = trace.translated[:, 0].numpy()
        expected = direct[0][..., None] if single else direct
        np.testing.assert_allclose(_data(tmp_path / "translated.nii.gz"), expected, atol=1e-6)
        field, affine = read_displacement(tmp_path / "displacement.nii.gz")
        rows, columns, across = (0, 1, 2) if single else (1, 2, 0)
        u = trace.displacement[0 if single else 1].numpy()
        ours = field[..., 0] if single else field[:, 1]
        np.testing.assert_allclose(ours[rows], u[0], atol=1e-5)
        np.testing.assert_allclose(ours[columns], u[1], atol=1e-5)
        assert not field[across].any()
        np.testing.assert_array_equal(np.linalg.norm(affine[:3, :3], axis=0), 1)

    def test_a_three_dimensional_model(self, tmp_path: Path) -> None:
        model = deforming(ndim=3, denoiser={"channels": [4, 4], "blocks": 1})
        card = {"name": "solid", "ndim": 3, "spacing_mm": 3.0, "orientation": "LPS"}
        card["normalisation"] = NORMALISATION
        source = _stored(tmp_path / "source.nii.gz", "SRA", (24, 20, 10))
        result = translate_volume(Translator(model, card), read_volume(source))
        assert result.displacement.shape == (1, 3, 24, 20, 10)
        write_results(result, tmp_path)
        _check_with_simpleitk(tmp_path, source, result)
        field, _ = read_displacement(tmp_path / "displacement.nii.gz")
        assert (np.abs(field).reshape(3, -1).max(1) > 0.05).all()

    def test_real_volume(self, translator: Translator, data_folder: Path, tmp_path: Path) -> None:
        # An IXI head, stored as P, S, R with a slope; every 20th axial slice.
        path = data_folder / "brain_t1_labels" / "IXI012_t1.nii.gz"
        nibabel.save(nibabel.load(path).slicer[:, 10::20], tmp_path / "head.nii.gz")
        result = translate_volume(translator, read_volume(tmp_path / "head.nii.gz"))
        assert result.grid.input_shape == (120, 90)
        write_results(result, tmp_path)
        _check_with_simpleitk(tmp_path, tmp_path / "head.nii.gz", result)

    def test_refuses(self, translator: Translator, tmp_path: Path) -> None:
        volume = Volume(
            np.zeros((8, 8, 1), np.float32), np.eye(4), Path("dark.nii"), "nifti", "u1", (8, 8, 1)
        )
        with pytest.raises(ValueError, match=r"dark\.nii: no voxel is above 0"):
            translate_volume(translator, volume)


def _pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


class TestPage:
    FOLD_GREEN = (57, 255, 20)

    def test_pyplot_is_left_alone(self, written: Written, tmp_path: Path) -> None:
        import matplotlib.pyplot as plt

        before = (plt.get_fignums(), dict(plt.rcParams))
        draw_page(written[0], tmp_path / "a.png")
        assert (plt.get_fignums(), dict(plt.rcParams)) == before

    def test_rows(self, written: Written, tmp_path: Path) -> None:
        heights = []
        for rows in (1, 2, 4):
            draw_page(written[0], tmp_path / "a.png", rows=rows)
            heights.append(_pixels(tmp_path / "a.png").shape[0])
        assert heights[1] - heights[0] == pytest.approx((heights[2] - heights[1]) / 2, abs=2)
        assert heights[1] > heights[0] + 200

    def test_says_how_many_deformations_there_are(
        self,
        written: Written,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        drawn: list[str] = []
        monkeypatch.setattr(Figure, "text", lambda self, s, **options: drawn.append(s))
        volume, trace = written[0], written[0].trace
        for changed, one, words in (
            ({}, True, "one φ, smooth across the slices"),
            ({"slice_smoothing": None}, False, "10 φ, one for each picture"),
            ({"deform": False}, True, "φ = id, shape kept"),
        ):
            arguments = trace.arguments | changed
            result = dataclasses.replace(
                volume, trace=dataclasses.replace(trace, arguments=arguments)
            )
            assert describe(result)["one_deformation"] is one
            draw_page(result, tmp_path / "a.png", rows=1)
            assert words in drawn[-1]
            print_results(result, tmp_path, 1.0, {})
            assert words in capsys.readouterr().out

    def test_folds_are_marked(self, written: Written, tmp_path: Path) -> None:
        def green(result: VolumeTrace) -> int:
            draw_page(result, tmp_path / "a.png")
            near = np.abs(_pixels(tmp_path / "a.png").astype(int) - self.FOLD_GREEN).max(-1) < 40
            return int(near.sum())

        result = written[0]
        assert int(result.folding.folds.sum()) == 0
        assert green(result) == 0
        folded = result.jacobian.clone()
        folded[:, :, 10:20, 10:20] = -0.5
        assert green(dataclasses.replace(result, jacobian=folded)) > 500

    def test_an_empty_and_a_tiny_image_can_be_drawn(
        self, translator: Translator, tmp_path: Path
    ) -> None:
        np.save(tmp_path / "a.npy", np.eye(9)[:7])
        result = translate_volume(translator, read_volume(tmp_path / "a.npy"))
        draw_page(result, tmp_path / "a.png")
        dark = dataclasses.replace(result, source=result.source * 0)
        draw_page(dark, tmp_path / "b.png")
        for name in ("a.png", "b.png"):
            assert _pixels(tmp_path / name).std() > 0


def test_types_a_record_cannot_hold() -> None:
    assert as_plain({"a": (np.float32(0.5), torch.tensor([1, 2]), Path("x"), None, True)}) == {
        "a": [0.5, [1, 2], "x", None, True]
    }
    undefined = torch.tensor([torch.nan, torch.inf, -torch.inf])
    assert as_plain(undefined) == ["nan", "inf", "-inf"]
    unknown: Any = object()
    with pytest.raises(TypeError, match="object"):
        as_plain(unknown)
