"""Pictures are read as their own tags say, or refused; TIFF itself is in test_tiff."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from picture_files import COLUMNS, ROWS, assert_reads, packed, random_values
from PIL import Image, ImageOps
from refusal import refuses

from plasticine.io import read_stored, read_volume


def _png(path: Path, rows: bytes, bits: int, colour: int, *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG whose scan lines are given, unfiltered."""
    length = len(rows) // ROWS
    lines = b"".join(b"\0" + rows[i * length : (i + 1) * length] for i in range(ROWS))
    header = struct.pack(">IIBBBBB", COLUMNS, ROWS, bits, colour, 0, 0, 0)
    text = b"\x89PNG\r\n\x1a\n"
    for name, body in (
        (b"IHDR", header),
        *chunks,
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ):
        text += struct.pack(">I", len(body)) + name + body
        text += struct.pack(">I", zlib.crc32(name + body))
    path.write_bytes(text)
    return path


class TestPng:
    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_few_bits_are_kept(self, tmp_path: Path, bits: int) -> None:
        data = np.random.default_rng(0).integers(0, 2**bits, (ROWS, COLUMNS))
        volume = assert_reads(_png(tmp_path / "a.png", packed(data, bits), bits, 0), data)
        assert len(volume.notes) == (bits > 1)

    @pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
    def test_sixteen_bits(self, tmp_path: Path, colour: int, channels: int) -> None:
        grey = random_values("uint16", ROWS, COLUMNS)
        grey[0, 0] = 59970
        samples = np.stack([grey] * channels, -1)
        if channels in (2, 4):
            samples[..., -1] = 65535
        path = tmp_path / "a.png"
        assert_reads(_png(path, samples.astype(">u2").tobytes(), 16, colour), grey, exact=True)
        if channels > 2:  # coloured in the lower byte alone
            samples[1, 1, 1] ^= 1
            with pytest.raises(TypeError, match="RGB colours"):
                read_volume(_png(path, samples.astype(">u2").tobytes(), 16, colour))
            samples[1, 1, 1] ^= 1
        if channels in (2, 4):  # transparent in the lower byte alone
            samples[1, 1, -1] = 65534
            with pytest.raises(ValueError, match="transparent"):
                read_volume(_png(path, samples.astype(">u2").tobytes(), 16, colour))

    @pytest.mark.parametrize(
        ("bits", "colour"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2)]
    )
    def test_a_transparent_value(self, tmp_path: Path, bits: int, colour: int) -> None:
        channels = 3 if colour else 1
        value = 2**bits - 1 if bits < 8 else 2**bits - 6
        grey = np.zeros((ROWS, COLUMNS), np.int64)
        clear = (b"tRNS", struct.pack(">H", value) * channels)
        path = tmp_path / "a.png"

        def rows() -> bytes:
            samples = np.stack([grey] * channels, -1).reshape(ROWS, -1)
            return samples.astype(">u2").tobytes() if bits == 16 else packed(samples, bits)

        assert_reads(_png(path, rows(), bits, colour, clear), grey)
        grey[2, 3] = value
        refuses(ValueError, "transparent", read_volume, _png(path, rows(), bits, colour, clear))

    def test_an_animation_is_refused(self, tmp_path: Path) -> None:
        pages = [Image.fromarray(page) for page in random_values("uint8", 2, ROWS, COLUMNS)]
        pages[0].save(tmp_path / "a.png", save_all=True, append_images=pages[1:])
        refuses(ValueError, "animation of 2", read_volume, tmp_path / "a.png")


def test_content_and_not_the_name_says_what_a_file_is(tmp_path: Path) -> None:
    data = random_values("int8", ROWS, COLUMNS)
    tifffile.imwrite(tmp_path / "a.png", data)
    assert_reads(tmp_path / "a.png", data)
    Image.new("L", (3, 3)).save(tmp_path / "b.gif")
    (tmp_path / "b.gif").rename(tmp_path / "b.bmp")
    refuses(ValueError, "not a picture file", read_volume, tmp_path / "b.bmp")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_bmp(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(random_values("uint8", ROWS, COLUMNS))
    picture = grey.convert(mode)
    picture.save(tmp_path / "a.bmp")
    expected = np.asarray(picture.convert("L" if mode != "1" else "1"))
    assert_reads(tmp_path / "a.bmp", expected)


def _turned(path: Path, data: NDArray[Any], orientation: int, **options: Any) -> None:
    picture = Image.fromarray(data)
    exif = picture.getexif()
    exif[274] = orientation
    picture.save(path, exif=exif, **options)


WRITERS: dict[str, Callable[[Path, NDArray[Any], int], None]] = {
    "png": _turned,
    "jpg": lambda path, data, value: _turned(path, data, value, quality=100),
    "tif": lambda path, data, value: tifffile.imwrite(
        path, data, extratags=[(274, "H", 1, value, True)]
    ),
    "deflate.tif": lambda path, data, value: tifffile.imwrite(
        path, data, compression="zlib", extratags=[(274, "H", 1, value, True)]
    ),
    "lzw.tif": lambda path, data, value: Image.fromarray(data).save(
        path, compression="tiff_lzw", tiffinfo={274: value}
    ),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", WRITERS)
def test_pictures_lie_as_a_viewer_shows_them(tmp_path: Path, name: str, orientation: int) -> None:
    # Blocks of one grey, which JPEG keeps nearly.
    stored = np.kron(np.arange(6).reshape(2, 3) * 40, np.ones((8, 8))).astype(np.uint8)
    path = tmp_path / f"a.{name}"
    WRITERS[name](path, stored, orientation)
    tagged = Image.fromarray(stored)
    tagged.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(tagged))
    volume = read_stored(path)
    difference = np.abs(volume.data[..., 0].astype(int) - expected)
    assert difference.max() <= (2 if name == "jpg" else 0)
    assert ["orientation" in note for note in volume.notes] == [True] * (orientation > 1)


@pytest.mark.parametrize("lzw", [True, False])
@pytest.mark.parametrize("orientations", [(6, 6), (1, 3, 2), (5, 8, 7)])
def test_each_page_is_turned_by_its_own_tag(
    tmp_path: Path, orientations: tuple[int, ...], lzw: bool
) -> None:
    data = random_values("uint8", len(orientations), ROWS, COLUMNS)
    path = tmp_path / "a.tif"
    tagged = []
    for page, value in zip(data, orientations, strict=True):
        tagged.append(Image.fromarray(page))
        tagged[-1].getexif()[274] = value
    expected = np.stack([np.asarray(ImageOps.exif_transpose(page)) for page in tagged])
    if lzw:
        parts = [Image.fromarray(page) for page in data]
        for part, value in zip(parts, orientations, strict=True):
            part.encoderinfo = {"tiffinfo": {274: value}}
        parts[0].save(path, save_all=True, append_images=parts[1:], compression="tiff_lzw")
        with tifffile.TiffFile(path) as file:
            written = [page.tags.valueof(274, default=1) for page in file.pages]
        if written != list(orientations):
            pytest.skip("this Pillow writes one orientation for all pages")
    else:
        with tifffile.TiffWriter(path) as file:
            for page, value in zip(data, orientations, strict=True):
                file.write(page, metadata=None, extratags=[(274, "H", 1, value, True)])
    assert_reads(path, expected)


def test_pages_turned_to_other_shapes_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for value in (1, 6):
            page = random_values("uint8", ROWS, COLUMNS)
            file.write(page, metadata=None, extratags=[(274, "H", 1, value, True)])
    refuses(ValueError, "pages differ in shape", read_volume, tmp_path / "a.tif")


def test_imagejs_slices_are_turned_by_their_one_tag(tmp_path: Path) -> None:
    data = random_values("uint8", 4, ROWS, COLUMNS)
    tifffile.imwrite(
        tmp_path / "a.tif", data, imagej=True, metadata={"axes": "ZYX"}, truncate=True,
        extratags=[(274, "H", 1, 6, True)],
    )  # fmt: skip
    expected = np.rot90(data, -1, axes=(1, 2))
    assert_reads(tmp_path / "a.tif", expected)
