"""TIFF of every kind: read as its own tags say, or refused."""

from __future__ import annotations

import importlib.util
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from picture_files import COLUMNS, ROWS, assert_reads, packed, random_values, tiff
from PIL import Image
from refusal import refuses

from plasticine.io import read_stored, read_volume

KINDS = "uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 float32 float64".split()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test writes its file."""
    return tmp_path / "a.tif"


def _lzw(data: bytes) -> bytes:
    """TIFF's LZW with no string repeated: each byte a 9-bit code, the table cleared in time."""
    codes = [code for n, byte in enumerate(data) for code in ([256] * (n % 200 == 0) + [byte])]
    return packed(np.array([[*codes, 257]]), 9)


def _data_or_reason(path: Path) -> NDArray[Any] | str:
    try:
        return read_stored(path).data
    except ValueError as error:
        return str(error)


class TestTiffKinds:
    @pytest.mark.parametrize("dtype", KINDS)
    @pytest.mark.parametrize("byteorder", ["<", ">"])
    @pytest.mark.parametrize("compression", [None, "zlib"])
    def test_numbers(self, path: Path, dtype: str, byteorder: Any, compression: str | None) -> None:
        data = random_values(dtype, 3, ROWS, COLUMNS)
        tifffile.imwrite(
            path,
            data,
            byteorder=byteorder,
            compression=compression,
            metadata=None,
            photometric="minisblack",
        )
        volume = read_stored(path)
        assert volume.data.dtype == data.dtype
        assert volume.stored_dtype == dtype
        np.testing.assert_array_equal(volume.data, data)
        assert volume.notes == ()

    @pytest.mark.parametrize("dtype", KINDS)
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_lzw_of_either_byte_order(self, path: Path, dtype: str, order: str) -> None:
        data = random_values(dtype, ROWS, COLUMNS)
        raw = _lzw(data.astype(data.dtype.newbyteorder(order)).tobytes())  # type: ignore[call-overload]
        sign = {"u": 1, "i": 2, "f": 3}[data.dtype.kind]
        bits = 8 * data.itemsize
        tiff(path, raw, bits, order=order, t259=[5], t339=[sign])
        found = _data_or_reason(path)
        if order == ">" and dtype in ("int16", "int32", "uint32", "float32"):
            assert f"({dtype}, big-endian) of compression LZW: save it without" in str(found)
        elif data.itemsize > 4 or dtype == "float16":
            assert f"{dtype}, " in str(found)
            assert "of compression LZW: save it without compression" in str(found)
        else:
            assert not isinstance(found, str), found
            assert found.dtype == data.dtype
            np.testing.assert_array_equal(found[..., 0], data)

    @pytest.mark.parametrize("bits", [1, 2, 4, 12])
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_few_bits(self, path: Path, bits: int, order: str) -> None:
        data = np.random.default_rng(0).integers(0, 2**bits, (ROWS, COLUMNS))
        if bits == 12 and order == ">":
            pytest.skip("Pillow reads 12 bits of Intel's byte order alone")
        tiff(path, packed(data, bits), bits, order=order)
        volume = assert_reads(path, data)
        assert [f"{bits}-bit" in note for note in volume.notes] == [True] * (bits in (2, 4))

    def test_twelve_bits_that_pillow_does_not_read_are_refused(self, path: Path) -> None:
        tiff(path, bytes(60), 12, order=">")
        refuses(ValueError, r"a\.tif: ", read_volume, path)

    @pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
    def test_white_as_zero_is_inverted(self, path: Path, bits: int) -> None:
        data = np.random.default_rng(0).integers(0, 2**bits, (ROWS, COLUMNS))
        raw = data.astype("<u2").tobytes() if bits == 16 else packed(data, bits)
        volume = assert_reads(tiff(path, raw, bits, photometric=0), 2**bits - 1 - data)
        assert "inverted" in volume.notes[0]

    @pytest.mark.parametrize("dtype", ["int8", "uint32", "float32"])
    def test_white_as_zero_of_no_known_black_is_refused(self, path: Path, dtype: str) -> None:
        tifffile.imwrite(path, random_values(dtype, ROWS, COLUMNS), photometric="miniswhite")
        refuses(ValueError, "white is stored as 0", read_volume, path)

    def test_bigtiff(self, path: Path) -> None:
        data = random_values("int16", 2, ROWS, COLUMNS)
        tifffile.imwrite(path, data, bigtiff=True, metadata=None)
        assert_reads(path, data)

    @pytest.mark.parametrize("tile", [None, (16, 16)])
    def test_tiles_and_predictor(self, path: Path, tile: Any) -> None:
        data = random_values("uint16", 40, 50)
        tifffile.imwrite(path, data, tile=tile, compression="zlib", predictor=True)
        assert_reads(path, data)

    @pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "zstd"])
    @pytest.mark.parametrize("mode", ["1", "L", "I;16", "I", "F", "RGB", "LA", "RGBA", "P"])
    def test_compressions_of_pillow(self, path: Path, mode: str, compression: str) -> None:
        grey = random_values("uint8", 3, ROWS, COLUMNS)
        exact = {"I;16": "uint16", "I": "int32", "F": "float32"}
        if mode in exact:
            grey = random_values(exact[mode], 3, ROWS, COLUMNS)
            pages = [Image.fromarray(page) for page in grey]
        elif mode == "1":
            grey = grey > 100
            pages = [Image.fromarray(page) for page in grey]
        else:
            pages = [Image.fromarray(page).convert(mode) for page in grey]
        pages[0].save(path, save_all=True, append_images=pages[1:], compression=compression)
        assert_reads(path, grey, exact=True)

    @pytest.mark.parametrize("dtype", ["int8", "int16", "uint32"])
    def test_lzw_keeps_the_sign(self, path: Path, dtype: str) -> None:
        """Pillow's own modes have none for these: the tag is changed after it wrote the bits."""
        data = random_values(dtype, ROWS, COLUMNS)
        signed = {"int8": "uint8", "int16": "uint16", "uint32": "int32"}[dtype]
        Image.fromarray(data.view(signed)).save(
            path, compression="tiff_lzw", tiffinfo={339: 2 if dtype[0] == "i" else 1}
        )
        with tifffile.TiffFile(path, mode="r+") as file:
            file.pages.first.tags[339].overwrite(2 if dtype[0] == "i" else 1)
        assert_reads(path, data, exact=True)

    @pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
    @pytest.mark.parametrize("photometric", [0, 1])
    def test_fax(self, path: Path, compression: str, photometric: int) -> None:
        shown = random_values("uint8", ROWS, COLUMNS) > 100
        info = {262: photometric}
        Image.fromarray(shown).save(path, compression=compression, tiffinfo=info)
        with tifffile.TiffFile(path) as file:
            assert file.pages.first.photometric == photometric
        assert_reads(path, np.asarray(Image.open(path)))
        assert_reads(path, shown)

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_jpeg_within(self, path: Path, mode: str) -> None:
        grey = Image.new("L", (16, 16), 77).convert(mode)
        grey.save(path, compression="jpeg", quality=95)
        assert np.abs(read_stored(path).data.astype(int) - 77).max() <= 1

    @pytest.mark.parametrize("predictor", [1, 2])
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
    def test_zstd_is_exact(self, path: Path, dtype: str, predictor: int) -> None:
        data = random_values(dtype, 40, 50)
        Image.fromarray(data).save(path, compression="zstd", tiffinfo={317: predictor})
        with tifffile.TiffFile(path) as file:
            assert file.pages.first.compression == 50000
        assert_reads(path, data, exact=True)

    @pytest.mark.parametrize(
        ("bits", "tags"),
        [
            *[(bits, {}) for bits in (6, 10, 14, 24)],
            (8, {"t259": [34712]}),  # JPEG 2000
            (16, {"t259": [34887]}),  # LERC
            (32, {"t259": [8], "t339": [3], "t317": [3]}),  # differences of floating point
        ],
    )
    def test_a_missing_package_is_named(self, path: Path, bits: int, tags: dict[str, Any]) -> None:
        if importlib.util.find_spec("imagecodecs"):
            pytest.skip("imagecodecs is there")
        data = zlib.compress(bytes(ROWS * COLUMNS * 4)) if "t317" in tags else bytes(200)
        tiff(path, data, bits, **tags)
        with pytest.raises(ValueError, match="the package imagecodecs is missing") as caught:
            read_volume(path)
        assert "damaged" not in str(caught.value)

    @pytest.mark.parametrize("compression", [32809, 65535])
    def test_a_compression_that_nothing_knows(self, path: Path, compression: int) -> None:
        tiff(path, bytes(200), 8, t259=[compression])
        refuses(ValueError, r"cannot read it .*: save it without compression", read_volume, path)

    def test_what_nothing_decodes_names_itself(self, path: Path) -> None:
        data = random_values("uint16", ROWS, COLUMNS)
        tifffile.imwrite(path, np.stack([data] * 3, -1), photometric="rgb")
        with tifffile.TiffFile(path, mode="r+") as file:
            file.pages.first.tags[259].overwrite(5)
        refuses(ValueError, r"a\.tif: ", read_volume, path)


class TestTiffColours:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
    @pytest.mark.parametrize("planar", ["contig", "separate"])
    def test_grey_in_colours(self, path: Path, dtype: str, planar: Any) -> None:
        grey = random_values(dtype, 2, ROWS, COLUMNS)
        grey[0, 0, 0] = 59970 if dtype == "uint16" else 200
        colours = np.stack([grey] * 3, -1 if planar == "contig" else 1)
        tifffile.imwrite(path, colours, photometric="rgb", planarconfig=planar, metadata=None)
        assert_reads(path, grey)
        colours[1, -1, -1, -1] += 1
        tifffile.imwrite(path, colours, photometric="rgb", planarconfig=planar, metadata=None)
        refuses(TypeError, "expected a grey picture, got RGB colours", read_volume, path)

    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_alpha(self, path: Path, dtype: str, channels: int) -> None:
        grey = random_values(dtype, ROWS, COLUMNS)
        opaque = np.full_like(grey, np.iinfo(dtype).max)

        def write() -> None:
            tifffile.imwrite(
                path,
                np.stack([grey] * channels + [opaque], -1),
                photometric="minisblack" if channels == 1 else "rgb",
                extrasamples=["unassalpha"],
                planarconfig="contig",
            )

        write()
        assert_reads(path, grey)
        opaque[2, 3] -= 1
        write()
        refuses(ValueError, "transparent", read_volume, path)

    def test_channels_without_a_meaning_are_refused(self, path: Path) -> None:
        data = random_values("uint8", ROWS, COLUMNS, 2)
        tifffile.imwrite(path, data, photometric="minisblack", planarconfig="contig")
        refuses(TypeError, "2 samples a pixel", read_volume, path)

    def test_a_grey_palette_is_resolved(self, path: Path) -> None:
        index = random_values("uint8", ROWS, COLUMNS)
        grey = np.random.default_rng(1).permutation(256).astype(np.uint16) * 257
        tifffile.imwrite(path, index, photometric="palette", colormap=np.stack([grey] * 3))
        assert_reads(path, (grey[index] // 257).astype(np.uint8), exact=True)
        fine = grey + 1 - grey // 65535
        tifffile.imwrite(path, index, photometric="palette", colormap=np.stack([fine] * 3))
        assert_reads(path, fine[index])
        tifffile.imwrite(path, index, photometric="palette", colormap=np.stack([grey, grey, fine]))
        refuses(TypeError, "PALETTE colours", read_volume, path)

    def test_a_palette_of_four_bits(self, path: Path) -> None:
        index = np.random.default_rng(0).integers(0, 16, (ROWS, COLUMNS))
        grey = [int(value) * 257 for value in np.random.default_rng(1).permutation(256)[:16]]
        tiff(path, packed(index, 4), 4, photometric=3, t320=3 * grey)
        assert_reads(path, np.array(grey)[index] // 257)


class TestStacks:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
    @pytest.mark.parametrize("truncate", [True, False])
    def test_slices_of_imagej(self, path: Path, dtype: str, truncate: bool) -> None:
        data = random_values(dtype, 6, ROWS, COLUMNS)
        tifffile.imwrite(path, data, imagej=True, metadata={"axes": "ZYX"}, truncate=truncate)
        assert_reads(path, data)

    @pytest.mark.parametrize("order", [">", "<"])
    def test_images_behind_one_page(self, path: Path, order: Any) -> None:
        """As ImageJ's own ``images=``, without ``slices=``, of which tifffile takes no notice."""
        data = random_values("uint16", 6, ROWS, COLUMNS)
        description = "ImageJ=1.54f\nimages=6\n"
        tifffile.imwrite(
            path, data, byteorder=order, description=description, metadata=None, truncate=True,
            volumetric=False,
        )  # fmt: skip
        with tifffile.TiffFile(path) as file:
            pages = len(file.pages)
        found = read_stored(path).data
        np.testing.assert_array_equal(found, data)
        if pages == 1:
            whole = path.read_bytes()
            path.write_bytes(whole.replace(b"images=6", b"images=9"))
            refuses(ValueError, r"images=9|cut short", read_volume, path)

    @pytest.mark.parametrize(
        "axes", ["CYX", "TYX", "ZCYX", "TZYX"], ids=["channels", "frames", "zc", "tz"]
    )
    @pytest.mark.parametrize("kind", ["imagej", "ome"])
    def test_other_axes_are_refused(self, path: Path, axes: str, kind: str) -> None:
        data = random_values("uint8", *(2, 3)[: len(axes) - 2], ROWS, COLUMNS)
        options: dict[str, Any] = {kind: True}
        tifffile.imwrite(path, data, metadata={"axes": axes}, **options)
        refuses(ValueError, r"expected slices .* 2 along", read_volume, path)

    def test_slices_of_ome(self, path: Path) -> None:
        data = random_values("int16", 4, ROWS, COLUMNS)
        tifffile.imwrite(path, data, ome=True, metadata={"axes": "ZYX"})
        assert_reads(path, data)

    def test_no_other_file_that_ome_names_is_opened(self, tmp_path: Path) -> None:
        own, other = (f"urn:uuid:aaaaaaaa-0000-0000-0000-00000000000{n}" for n in (1, 2))
        parts = "".join(
            f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}.tif">{uuid}'
            "</UUID></TiffData>"
            for z, (name, uuid) in enumerate((("first", own), ("other", other)))
        )
        description = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{own}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
            f'Type="uint8" SizeX="{COLUMNS}" SizeY="{ROWS}" SizeZ="2" SizeC="1" SizeT="1">'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{parts}</Pixels></Image></OME>'
        )
        for name in ("first", "other"):
            data = random_values("uint8", ROWS, COLUMNS)
            tifffile.imwrite(tmp_path / f"{name}.tif", data, description=description, metadata=None)
        with pytest.raises(ValueError, match="OME description is not of this file alone"):
            read_volume(tmp_path / "first.tif")

    @pytest.mark.parametrize("what", ["shape", "type"])
    def test_pages_that_differ_are_refused(self, path: Path, what: str) -> None:
        with tifffile.TiffWriter(path) as file:
            file.write(random_values("uint8", ROWS, COLUMNS), metadata=None)
            other = (6, COLUMNS) if what == "shape" else (ROWS, COLUMNS)
            kind = "uint8" if what == "shape" else "int8"
            file.write(random_values(kind, *other), metadata=None)
        refuses(ValueError, "its pages differ in shape or type", read_volume, path)

    @pytest.mark.parametrize("compression", [None, "zlib"])
    def test_every_cut_is_noticed(self, path: Path, compression: str | None) -> None:
        data = random_values("uint16", 3, ROWS, COLUMNS)
        tifffile.imwrite(
            path, data, compression=compression, metadata=None, photometric="minisblack"
        )
        whole, refused = path.read_bytes(), 0
        for length in range(4, len(whole), 7):
            path.write_bytes(whole[:length])
            found = _data_or_reason(path)
            if isinstance(found, str):
                refused += 1
                assert found.startswith(f"{path}: ")
            else:  # without the last bytes of a tag that says nothing of the pixels
                np.testing.assert_array_equal(found, data)
        assert refused > len(range(4, len(whole), 7)) / 2
