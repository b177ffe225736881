"""Files of transforms, against the programs that write and read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)

from plasticine.transforms import read_transform
from plasticine.transforms.formats.itk_linear import read_itk_transform, write_itk_affine

PLACES = np.random.default_rng(0).normal(scale=60, size=(5, 3))


def _kinds(ndim: int) -> dict[str, Any]:
    random = np.random.default_rng(ndim)
    centre = random.normal(scale=30, size=ndim).tolist()
    shift = random.normal(scale=20, size=ndim).tolist()
    affine = sitk.AffineTransform(ndim)
    affine.SetMatrix((np.eye(ndim) + 0.2 * random.normal(size=(ndim, ndim))).ravel().tolist())
    affine.SetTranslation(shift)
    affine.SetCenter(centre)
    scale = sitk.ScaleTransform(ndim, (1.1, 0.8, 1.3)[:ndim])
    scale.SetCenter(centre)
    found = {
        "affine": affine,
        "scale": scale,
        "translation": sitk.TranslationTransform(ndim, shift),
        "identity": sitk.Transform(ndim, sitk.sitkIdentity),
    }
    if ndim == 2:
        return found | {
            "euler": sitk.Euler2DTransform(centre, 0.4, shift),
            "similarity": sitk.Similarity2DTransform(1.2, -0.7, shift, centre),
        }
    zyx = sitk.Euler3DTransform(centre, 0.3, -0.5, 0.9, shift)
    zyx.SetComputeZYX(True)
    versor = sitk.VersorTransform((0.6, 0.0, 0.8), 1.1)
    versor.SetCenter(centre)
    return found | {
        "euler": sitk.Euler3DTransform(centre, 0.3, -0.5, 0.9, shift),
        "euler, other order": zyx,
        "versor": versor,
        "rigid": sitk.VersorRigid3DTransform((0.6, 0.0, 0.8), 2.5, shift, centre),
        "similarity": sitk.Similarity3DTransform(1.2, (0.6, 0.8, 0.0), 0.7, shift, centre),
    }


KINDS = {(ndim, name): kind for ndim in (2, 3) for name, kind in _kinds(ndim).items()}


def assert_same(matrix: np.ndarray, transform: Any) -> None:
    ndim = len(matrix) - 1
    for place in PLACES[:, :ndim]:
        expected = transform.TransformPoint(place.tolist())
        assert np.allclose(matrix[:-1, :-1] @ place + matrix[:-1, -1], expected, atol=1e-9)


@pytest.mark.parametrize("suffix", ["tfm", "txt", "mat"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_itk_writes_and_we_read(tmp_path: Path, kind: tuple[int, str], suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    sitk.WriteTransform(KINDS[kind], str(file))
    matrix = read_itk_transform(file)
    assert len(matrix) == kind[0] + 1
    assert_same(matrix, KINDS[kind])


def test_a_composite_applies_the_last_first(tmp_path: Path) -> None:
    file = tmp_path / "a.tfm"
    parts = [KINDS[3, name] for name in ("affine", "euler", "translation")]
    sitk.WriteTransform(sitk.CompositeTransform(parts), str(file))
    assert_same(read_itk_transform(file), sitk.CompositeTransform(parts))


@pytest.mark.parametrize("ndim", [2, 3])
def test_we_write_and_itk_reads(tmp_path: Path, ndim: int) -> None:
    matrix = np.eye(ndim + 1)
    matrix[:-1] += np.random.default_rng(1).normal(size=(ndim, ndim + 1))
    write_itk_affine(tmp_path / "a.tfm", matrix, comment="What it is: a map\nof points")
    assert_same(matrix, sitk.ReadTransform(str(tmp_path / "a.tfm")))
    assert np.array_equal(read_itk_transform(tmp_path / "a.tfm"), matrix)


@pytest.mark.parametrize("kind", ["AffineTransform", "Euler3DTransform", "Similarity3DTransform"])
def test_ants_writes_and_we_read(tmp_path: Path, kind: str) -> None:
    ants = pytest.importorskip("ants")
    file = tmp_path / "0GenericAffine.mat"
    transform = ants.create_ants_transform(transform_type=kind, dimension=3)
    count = len(transform.parameters)
    random = np.random.default_rng(2)
    values = 0.2 * random.normal(size=count) + (np.eye(3, 4).ravel() if count == 12 else 0)
    transform.set_parameters(values)
    centre = (
        random.normal(size=len(transform.fixed_parameters))
        * ([20] * 3 + [0])[: len(transform.fixed_parameters)]
    )
    transform.set_fixed_parameters(centre)
    ants.write_transform(transform, str(file))
    matrix = read_itk_transform(file)
    for place in PLACES:
        expected = ants.apply_ants_transform_to_point(transform, place)
        assert np.allclose(matrix[:3, :3] @ place + matrix[:3, 3], expected, atol=1e-4)


def test_we_write_and_ants_reads(tmp_path: Path) -> None:
    ants = pytest.importorskip("ants")
    matrix = np.eye(4)
    matrix[:3] += 0.3 * np.random.default_rng(1).normal(size=(3, 4)) * (1, 1, 1, 40)
    write_itk_affine(tmp_path / "affine.tfm", matrix, comment="fixed to moving")
    transform = ants.read_transform(str(tmp_path / "affine.tfm"))
    for place in PLACES:
        found = ants.apply_ants_transform_to_point(transform, place)
        assert np.allclose(matrix[:3, :3] @ place + matrix[:3, 3], found, atol=1e-4)


def test_the_other_byte_order(tmp_path: Path) -> None:
    sitk.WriteTransform(KINDS[3, "affine"], str(tmp_path / "a.mat"))
    content = bytearray((tmp_path / "a.mat").read_bytes())
    name = b"AffineTransform_double_3_3\0"
    big_endian = np.array([1000, 0, 0, 0, 0])
    swapped = (np.frombuffer(content[:20], "<i4") + big_endian).astype(">i4").tobytes() + name
    at = len(swapped)
    swapped += np.frombuffer(content[at : at + 96], "<f8").astype(">f8").tobytes()
    rest = content[at + 96 :]
    swapped += (np.frombuffer(rest[:20], "<i4") + big_endian).astype(">i4").tobytes()
    swapped += rest[20:26] + np.frombuffer(rest[26:], "<f8").astype(">f8").tobytes()
    (tmp_path / "b.mat").write_bytes(swapped)
    assert_same(read_itk_transform(tmp_path / "b.mat"), KINDS[3, "affine"])


HEAD = "#Insight Transform File V1.0\n"
REFUSED = {
    "a spline": (HEAD + "Transform: BSplineTransform_double_3_3\n", "expected a linear transform"),
    "no name": (HEAD + "Transform: affine\n", "expected a transform of ITK such as"),
    "few parameters": (
        HEAD + "Transform: Euler3DTransform_double_3_3\nParameters: 1 2\n",
        "expected 6 parameters and 3 fixed ones, got 2 and 0",
    ),
    "two": (
        HEAD + "Transform: IdentityTransform_double_3_3\n" * 2,
        "expected one transform or a composite, got Identity.*, Identity",
    ),
    "none": (HEAD, "expected one transform or a composite, got none"),
    "words": (HEAD + "hello\n", "expected a transform and its parameters, got the line 'hello'"),
    "no number": (
        HEAD + "Transform: Euler2DTransform_double_2_2\nParameters: a b c\n",
        "could not convert",
    ),
    "flat": (
        HEAD + "Transform: ScaleTransform_double_2_2\nParameters: 1 0\nFixedParameters: 0 0\n",
        "cannot be inverted",
    ),
    "another file": ("hello", "expected the first line"),
    "empty": ("", "expected the first line"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path: Path, case: str) -> None:
    text, message = REFUSED[case]
    (tmp_path / "a.tfm").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.tfm: .*{message}"):
        read_itk_transform(tmp_path / "a.tfm")


@pytest.mark.parametrize("content", [b"MATLAB 5.0 MAT-file" + bytes(200), b"ab", b"\1" * 40])
def test_another_mat_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mat: expected a MATLAB 4 file"):
        read_itk_transform(tmp_path / "a.mat")


def test_a_mat_file_cut_short(tmp_path: Path) -> None:
    sitk.WriteTransform(KINDS[3, "affine"], str(tmp_path / "a.mat"))
    whole = (tmp_path / "a.mat").read_bytes()
    for length in (15, 40, len(whole) - 1):
        (tmp_path / "a.mat").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.mat: .*cut short"):
            read_itk_transform(tmp_path / "a.mat")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("flirt.mat", b"1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "could be of several formats"),
        ("a.txt", b"1 2 3\n", "is no transform of a format that is known"),
        ("a.nii", b"1 2 3\n", "not a NIfTI file"),
    ],
)
def test_formats_that_are_not_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        read_transform(tmp_path / name)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_itk_transform(tmp_path / "a.tfm")
