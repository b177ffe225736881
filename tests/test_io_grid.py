"""The model's grid, and displacements that ITK reads."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from image_files import oblique, random_image, reoriented, save, sitk
from numpy.typing import NDArray
from refusal import refuses

from plasticine.io import (
    ModelGrid,
    read_displacement,
    write_displacement,
    write_image,
)
from plasticine.ops.warp import warp

ALL_ORIENTATIONS = [
    "".join(codes)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for codes in itertools.product(*axes)
]


def _grid(
    shape: tuple[int, int, int],
    affine: NDArray[np.float64],
    *,
    ndim: int = 2,
    spacing: float | None = None,
    orientation: str = "SPR",
) -> ModelGrid:
    return ModelGrid.of(shape, affine, orientation=orientation, ndim=ndim, spacing=spacing)


class TestOrientation:
    @pytest.mark.parametrize("orientation", ALL_ORIENTATIONS)
    def test_any_file_gives_the_same_images(self, orientation: str) -> None:
        # The same body, stored along every choice of axes, by nibabel's own reorientation.
        ras = nibabel.Nifti1Image(random_image(3, 4, 5), oblique())
        stored = reoriented(ras, orientation)
        assert "".join(nibabel.aff2axcodes(stored.affine)) == orientation
        volume = np.asarray(stored.dataobj)
        grid = _grid(volume.shape, stored.affine)
        images = grid.to_images(volume)
        # SPR of RAS: slices along z, rows along -y, columns along x.
        expected = np.asarray(ras.dataobj).transpose(2, 1, 0)[:, ::-1]
        np.testing.assert_array_equal(images[:, 0].numpy(), expected)
        np.testing.assert_array_equal(grid.to_file(images), volume)
        assert grid.input_shape == (4, 3)
        assert grid.input_spacing == pytest.approx((1.5, 2))

    @pytest.mark.parametrize("orientation", ALL_ORIENTATIONS[::5])
    @pytest.mark.parametrize("ndim", [2, 3])
    def test_displacement_turns_with_the_axes(self, orientation: str, ndim: int) -> None:
        # Warping the images and warping the file's array along its own axes are one thing.
        shape = (6, 7, 8)
        grid = _grid(shape, oblique(orientation=orientation), ndim=ndim)
        volume = random_image(*shape)
        images = grid.to_images(volume)
        field = torch.randn(
            images.shape[0], ndim, *grid.input_shape, generator=torch.Generator().manual_seed(1)
        )
        by_images = grid.to_file(warp(images, field))
        in_file = torch.from_numpy(grid.displacement_to_file(field))[None]
        by_file = warp(torch.from_numpy(volume)[None, None], in_file)[0, 0].numpy()
        np.testing.assert_allclose(by_images, by_file, atol=2e-5)

    def test_slice_numbers_of_the_file(self) -> None:
        volume = np.arange(5, dtype=np.float32).reshape(1, 1, 5) * np.ones((3, 4, 1), np.float32)
        for orientation in ("RAS", "RAI"):
            grid = _grid(volume.shape, oblique(orientation=orientation))
            for index, image in enumerate(grid.to_images(volume)):
                assert grid.slice_in_file(index) == int(image[0, 0, 0])

    def test_refuses(self) -> None:
        for orientation in ("SPS", "SP", "XPR", "SPRL"):
            with pytest.raises(ValueError, match="three axis codes"):
                _grid((3, 4, 5), np.eye(4), orientation=orientation)
        refuses(ValueError, "2 or 3, got 4", _grid, (3, 4, 5), np.eye(4), ndim=4)


class TestResampling:
    def test_same_spacing_touches_nothing(self) -> None:
        grid = _grid((5, 6, 7), np.diag([2.00001, 2, 3, 1]), spacing=2.0)
        images = torch.rand(7, 1, 6, 5)
        assert not grid.resampled
        assert grid.to_model(images) is images
        assert grid.from_model(images) is images
        assert grid.model_shape == (6, 5)

    @pytest.mark.parametrize("spacing", [0.7, 1.0, 1.5, 3.1])
    def test_places_are_kept(self, spacing: float) -> None:
        # A ramp in millimetres: its values tell where each model voxel lies.
        grid = _grid((41, 30, 2), np.diag([spacing, 1.3, 5, 1]), spacing=2.0)
        columns = spacing * torch.arange(41.0)
        images = columns.expand(2, 1, 30, 41).contiguous()
        model = grid.to_model(images)
        assert model.shape == (2, 1, *grid.model_shape)
        millimetres = 2.0 * torch.arange(grid.model_shape[1])
        assert millimetres[-1] >= columns[-1] - 1e-4
        assert millimetres[-2] < columns[-1]
        inside = millimetres <= columns[-1]
        expected = millimetres[inside].expand(2, 1, grid.model_shape[0], -1)
        margin = 4 if spacing < 1 else 0  # where smoothing meets the repeated edge
        inner = slice(margin, int(inside.sum()) - margin)
        torch.testing.assert_close(
            model[..., : int(inside.sum())][..., inner], expected[..., inner], atol=1e-3, rtol=0
        )
        ramp = millimetres.expand(2, 1, *grid.model_shape).contiguous()
        torch.testing.assert_close(grid.from_model(ramp), images, atol=1e-3, rtol=0)

    @pytest.mark.parametrize("ndim", [2, 3])
    def test_displacement_keeps_its_millimetres(self, ndim: int) -> None:
        affine = oblique((0.8, 1.1, 3.0))
        grid = _grid((40, 33, 12), affine, ndim=ndim, spacing=2.0)
        # An affine displacement, in model voxels of 2 mm; linear interpolation is exact on it.
        axes = torch.meshgrid(*(torch.arange(float(n)) for n in grid.model_shape), indexing="ij")
        components = [0.1 * i - 1 + 0.07 * axes[0] - 0.05 * axes[-1] for i in range(ndim)]
        field = torch.stack(components)[None].contiguous()
        moved = grid.displacement_from_model(field)[0]
        spacing = grid.input_spacing
        places = torch.meshgrid(
            *(
                torch.arange(float(n)) * s / 2
                for n, s in zip(grid.input_shape, spacing, strict=True)
            ),
            indexing="ij",
        )
        for i in range(ndim):
            millimetres = 2 * (0.1 * i - 1 + 0.07 * places[0] - 0.05 * places[-1])
            torch.testing.assert_close(moved[i] * spacing[i], millimetres, atol=1e-4, rtol=1e-5)

    def test_fine_detail_does_not_alias(self) -> None:
        # Stripes of 1 mm at 0.25 mm voxels, seen at 2 mm: grey, where bare sampling gives stripes.
        grid = _grid((160, 160, 1), np.diag([0.25, 0.25, 1, 1]), spacing=2.0)
        stripes = (torch.arange(160) // 2 % 2).float().expand(1, 1, 160, 160).contiguous()
        inner = grid.to_model(stripes)[..., 1:-1]  # at the border the edge voxel is repeated
        assert float((inner - 0.5).abs().max()) < 0.01
        assert float((stripes[..., ::8] - 0.5).abs().min()) == 0.5


class TestDisplacementFile:
    @pytest.mark.parametrize("orientation", ["RAS", "LPS", "SPR", "AIL"])
    def test_round_trip(self, tmp_path: Path, orientation: str) -> None:
        field = random_image(3, 4, 5, 6) - 0.5
        affine = oblique(orientation=orientation)
        write_displacement(tmp_path / "u.nii.gz", field, affine)
        again, place = read_displacement(tmp_path / "u.nii.gz")
        np.testing.assert_allclose(again, field, atol=1e-5)
        np.testing.assert_allclose(place, affine, rtol=1e-5, atol=1e-5)

    def test_header(self, tmp_path: Path) -> None:
        affine = oblique()
        write_displacement(tmp_path / "u.nii", np.zeros((3, 4, 5, 6), np.float32), affine)
        image = nibabel.load(tmp_path / "u.nii")
        assert image.shape == (4, 5, 6, 1, 3)
        assert int(image.header["intent_code"]) == 1007
        assert image.get_data_dtype() == np.float32
        assert image.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(image.get_sform(), affine, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(image.get_qform(), affine, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("orientation", ["RAS", "SPR", "ILA"])
    def test_simpleitk_warps_as_we_do(self, tmp_path: Path, orientation: str) -> None:
        shape = (18, 20, 16)
        affine = oblique(orientation=orientation)
        image = random_image(*shape)
        rng = torch.Generator().manual_seed(3)
        coarse = 3 * torch.randn(1, 3, 4, 4, 4, generator=rng)
        field = torch.nn.functional.interpolate(coarse, shape, mode="trilinear", align_corners=True)
        write_image(tmp_path / "x.nii.gz", image, affine)
        write_displacement(tmp_path / "u.nii.gz", field[0].numpy(), affine)
        moving = sitk.ReadImage(str(tmp_path / "x.nii.gz"), sitk.sitkFloat64)
        vectors = sitk.ReadImage(str(tmp_path / "u.nii.gz"), sitk.sitkVectorFloat64)
        outside = -9.0
        theirs = sitk.GetArrayFromImage(
            sitk.Resample(
                moving, moving, sitk.DisplacementFieldTransform(vectors), sitk.sitkLinear, outside
            )
        ).transpose(2, 1, 0)
        ours = warp(torch.from_numpy(image)[None, None], field)[0, 0].numpy()
        inside = theirs != outside
        assert inside.mean() > 0.6
        np.testing.assert_allclose(theirs[inside], ours[inside], atol=2e-4)

    def test_refuses(self, tmp_path: Path) -> None:
        for shape in ((2, 4, 5, 6), (3, 4, 5), (4, 5, 6, 3)):
            with pytest.raises(ValueError, match="3 components"):
                write_displacement(tmp_path / "u.nii", np.zeros(shape, np.float32), np.eye(4))
        with pytest.raises(ValueError, match=r"\(X, Y, Z\), got shape \(4, 5\)"):
            write_image(tmp_path / "u.nii", np.zeros((4, 5), np.float32), np.eye(4))
        assert not list(tmp_path.iterdir())

    def test_refuses_other_files(self, tmp_path: Path) -> None:
        path = tmp_path / "u.nii"
        refuses(FileNotFoundError, r"u\.nii: no such file", read_displacement, path)
        save(path, np.ones((4, 5, 6), np.float32))
        refuses(ValueError, r"\(X, Y, Z, 1, 3\), got shape \(4, 5, 6\)", read_displacement, path)
        save(path, np.ones((4, 5, 6, 1, 2), np.float32))
        refuses(ValueError, r"got shape \(4, 5, 6, 1, 2\)", read_displacement, path)
        save(path, np.ones((4, 5, 6, 1, 3), np.float32))
        refuses(ValueError, r"intent 1007 .vector., got 0", read_displacement, path)
        write_displacement(path, np.full((3, 4, 5, 6), np.nan, np.float32), np.eye(4))
        refuses(ValueError, "NaN or infinite", read_displacement, path)
