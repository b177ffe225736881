"""Pictures of every kind that TIFF and PNG have: read as their own tags say, or refused."""

from __future__ import annotations

import importlib.util
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps
from refusal import refuses

from plasticine.io import Volume, read_stored, read_volume

KINDS = "uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 float32 float64".split()
ROWS, COLUMNS = 5, 7


def _values(dtype: str, *shape: int) -> NDArray[Any]:
    """Random values over the whole range of a type."""
    generator = np.random.default_rng(3)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return generator.normal(size=shape).astype(kind)
    info = np.iinfo(kind)
    return generator.integers(info.min, info.max, shape, dtype=kind, endpoint=True)


def _packed(values: NDArray[Any], bits: int) -> bytes:
    """Rows of samples of few bits, each row padded to a whole byte."""
    shifts = np.arange(bits - 1, -1, -1)
    ones = (values[..., None].astype(np.int64) >> shifts & 1).astype(np.uint8)
    return np.packbits(ones.reshape(len(values), -1), axis=1).tobytes()


def _lzw(data: bytes) -> bytes:
    """TIFF's LZW with no string repeated: each byte a 9-bit code, the table cleared in time."""
    codes = [code for n, byte in enumerate(data) for code in ([256] * (n % 200 == 0) + [byte])]
    return _packed(np.array([[*codes, 257]]), 9)


def _tiff(
    path: Path, data: bytes, bits: int, *, photometric: int = 1, order: str = "<", **more: Any
) -> Path:
    """A TIFF of one strip, its tags by hand."""
    tags: list[tuple[int, int, Any]] = [
        (256, 3, [COLUMNS]),
        (257, 3, [ROWS]),
        (258, 3, [bits]),
        (259, 3, more.pop("t259", [1])),
        (262, 3, [photometric]),
        (273, 4, [8]),
        (277, 3, [1]),
        (278, 3, [ROWS]),
        (279, 4, [len(data)]),
        *[(int(code[1:]), 3, value) for code, value in more.items()],
    ]
    data += b"\0" * (len(data) % 2)
    start = 8 + len(data)
    behind = start + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    for code, kind, values in sorted(tags):
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            place = struct.pack(f"{order}I", behind + len(extra))
            extra += packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", code, kind, len(values)) + place
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(tags)) + entries + b"\0\0\0\0"
    path.write_bytes(mark + struct.pack(f"{order}I", start) + data + directory + extra)
    return path


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


def _plane(volume: Volume) -> NDArray[Any]:
    assert volume.data.shape[2] == 1
    return volume.data[..., 0]


def _data_or_reason(path: Path) -> NDArray[Any] | str:
    try:
        return read_stored(path).data
    except ValueError as error:
        return str(error)


class TestTiffKinds:
    @pytest.mark.parametrize("dtype", KINDS)
    @pytest.mark.parametrize("byteorder", ["<", ">"])
    @pytest.mark.parametrize("compression", [None, "zlib"])
    def test_numbers(
        self, tmp_path: Path, dtype: str, byteorder: Any, compression: str | None
    ) -> None:
        data = _values(dtype, 3, ROWS, COLUMNS)
        path = tmp_path / "a.tif"
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
    def test_lzw_of_either_byte_order(self, tmp_path: Path, dtype: str, order: str) -> None:
        data = _values(dtype, ROWS, COLUMNS)
        raw = _lzw(data.astype(data.dtype.newbyteorder(order)).tobytes())  # type: ignore[call-overload]
        sign = {"u": 1, "i": 2, "f": 3}[data.dtype.kind]
        bits = 8 * data.itemsize
        path = _tiff(tmp_path / "a.tif", raw, bits, order=order, t259=[5], t339=[sign])
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
    def test_few_bits(self, tmp_path: Path, bits: int, order: str) -> None:
        data = np.random.default_rng(0).integers(0, 2**bits, (ROWS, COLUMNS))
        if bits == 12 and order == ">":
            pytest.skip("Pillow reads 12 bits of Intel's byte order alone")
        path = _tiff(tmp_path / "a.tif", _packed(data, bits), bits, order=order)
        volume = read_stored(path)
        np.testing.assert_array_equal(_plane(volume), data)
        assert [f"{bits}-bit" in note for note in volume.notes] == [True] * (bits in (2, 4))

    def test_twelve_bits_that_pillow_does_not_read_are_refused(self, tmp_path: Path) -> None:
        path = _tiff(tmp_path / "a.tif", bytes(60), 12, order=">")
        refuses(ValueError, r"a\.tif: ", read_volume, path)

    @pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
    def test_white_as_zero_is_inverted(self, tmp_path: Path, bits: int) -> None:
        data = np.random.default_rng(0).integers(0, 2**bits, (ROWS, COLUMNS))
        raw = data.astype("<u2").tobytes() if bits == 16 else _packed(data, bits)
        volume = read_stored(_tiff(tmp_path / "a.tif", raw, bits, photometric=0))
        np.testing.assert_array_equal(_plane(volume), 2**bits - 1 - data)
        assert "inverted" in volume.notes[0]

    @pytest.mark.parametrize("dtype", ["int8", "uint32", "float32"])
    def test_white_as_zero_of_no_known_black_is_refused(self, tmp_path: Path, dtype: str) -> None:
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, _values(dtype, ROWS, COLUMNS), photometric="miniswhite")
        refuses(ValueError, "white is stored as 0", read_volume, path)

    def test_bigtiff(self, tmp_path: Path) -> None:
        data = _values("int16", 2, ROWS, COLUMNS)
        tifffile.imwrite(tmp_path / "a.tif", data, bigtiff=True, metadata=None)
        np.testing.assert_array_equal(read_stored(tmp_path / "a.tif").data, data)

    @pytest.mark.parametrize("tile", [None, (16, 16)])
    def test_tiles_and_predictor(self, tmp_path: Path, tile: Any) -> None:
        data = _values("uint16", 40, 50)
        tifffile.imwrite(tmp_path / "a.tif", data, tile=tile, compression="zlib", predictor=True)
        np.testing.assert_array_equal(_plane(read_stored(tmp_path / "a.tif")), data)

    @pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "zstd"])
    @pytest.mark.parametrize("mode", ["1", "L", "I;16", "I", "F", "RGB", "LA", "RGBA", "P"])
    def test_compressions_of_pillow(self, tmp_path: Path, mode: str, compression: str) -> None:
        grey = _values("uint8", 3, ROWS, COLUMNS)
        exact = {"I;16": "uint16", "I": "int32", "F": "float32"}
        if mode in exact:
            grey = _values(exact[mode], 3, ROWS, COLUMNS)
            pages = [Image.fromarray(page) for page in grey]
        elif mode == "1":
            grey = grey > 100
            pages = [Image.fromarray(page) for page in grey]
        else:
            pages = [Image.fromarray(page).convert(mode) for page in grey]
        path = tmp_path / "a.tif"
        pages[0].save(path, save_all=True, append_images=pages[1:], compression=compression)
        volume = read_stored(path)
        assert volume.data.dtype == grey.dtype
        np.testing.assert_array_equal(volume.data, grey)

    @pytest.mark.parametrize("dtype", ["int8", "int16", "uint32"])
    def test_lzw_keeps_the_sign(self, tmp_path: Path, dtype: str) -> None:
        """Pillow's own modes have none for these: the tag is changed after it wrote the bits."""
        data = _values(dtype, ROWS, COLUMNS)
        signed = {"int8": "uint8", "int16": "uint16", "uint32": "int32"}[dtype]
        path = tmp_path / "a.tif"
        Image.fromarray(data.view(signed)).save(
            path, compression="tiff_lzw", tiffinfo={339: 2 if dtype[0] == "i" else 1}
        )
        with tifffile.TiffFile(path, mode="r+") as file:
            file.pages.first.tags[339].overwrite(2 if dtype[0] == "i" else 1)
        volume = read_stored(path)
        assert volume.data.dtype == data.dtype
        np.testing.assert_array_equal(_plane(volume), data)

    @pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
    @pytest.mark.parametrize("photometric", [0, 1])
    def test_fax(self, tmp_path: Path, compression: str, photometric: int) -> None:
        shown = _values("uint8", ROWS, COLUMNS) > 100
        path = tmp_path / "a.tif"
        info = {262: photometric}
        Image.fromarray(shown).save(path, compression=compression, tiffinfo=info)
        with tifffile.TiffFile(path) as file:
            assert file.pages.first.photometric == photometric
        np.testing.assert_array_equal(_plane(read_stored(path)), np.asarray(Image.open(path)))
        np.testing.assert_array_equal(_plane(read_stored(path)), shown)

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_jpeg_within(self, tmp_path: Path, mode: str) -> None:
        grey = Image.new("L", (16, 16), 77).convert(mode)
        grey.save(tmp_path / "a.tif", compression="jpeg", quality=95)
        assert np.abs(_plane(read_stored(tmp_path / "a.tif")).astype(int) - 77).max() <= 1

    @pytest.mark.parametrize("predictor", [1, 2])
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
    def test_zstd_is_exact(self, tmp_path: Path, dtype: str, predictor: int) -> None:
        data = _values(dtype, 40, 50)
        path = tmp_path / "a.tif"
        Image.fromarray(data).save(path, compression="zstd", tiffinfo={317: predictor})
        with tifffile.TiffFile(path) as file:
            assert file.pages.first.compression == 50000
        volume = read_stored(path)
        assert volume.data.dtype == data.dtype
        np.testing.assert_array_equal(_plane(volume), data)

    @pytest.mark.parametrize(
        ("bits", "tags"),
        [
            *[(bits, {}) for bits in (6, 10, 14, 24)],
            (8, {"t259": [34712]}),  # JPEG 2000
            (16, {"t259": [34887]}),  # LERC
            (32, {"t259": [8], "t339": [3], "t317": [3]}),  # differences of floating point
        ],
    )
    def test_a_missing_package_is_named(
        self, tmp_path: Path, bits: int, tags: dict[str, Any]
    ) -> None:
        if importlib.util.find_spec("imagecodecs"):
            pytest.skip("imagecodecs is there")
        data = zlib.compress(bytes(ROWS * COLUMNS * 4)) if "t317" in tags else bytes(200)
        path = _tiff(tmp_path / "a.tif", data, bits, **tags)
        with pytest.raises(ValueError, match="the package imagecodecs is missing") as caught:
            read_volume(path)
        assert "damaged" not in str(caught.value)

    @pytest.mark.parametrize("compression", [32809, 65535])
    def test_a_compression_that_nothing_knows(self, tmp_path: Path, compression: int) -> None:
        path = _tiff(tmp_path / "a.tif", bytes(200), 8, t259=[compression])
        refuses(ValueError, r"cannot read it .*: save it without compression", read_volume, path)

    def test_what_nothing_decodes_names_itself(self, tmp_path: Path) -> None:
        data = _values("uint16", ROWS, COLUMNS)
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, np.stack([data] * 3, -1), photometric="rgb")
        with tifffile.TiffFile(path, mode="r+") as file:
            file.pages.first.tags[259].overwrite(5)
        refuses(ValueError, r"a\.tif: ", read_volume, path)


class TestTiffColours:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
    @pytest.mark.parametrize("planar", ["contig", "separate"])
    def test_grey_in_colours(self, tmp_path: Path, dtype: str, planar: Any) -> None:
        grey = _values(dtype, 2, ROWS, COLUMNS)
        grey[0, 0, 0] = 59970 if dtype == "uint16" else 200
        colours = np.stack([grey] * 3, -1 if planar == "contig" else 1)
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, colours, photometric="rgb", planarconfig=planar, metadata=None)
        np.testing.assert_array_equal(read_stored(path).data, grey)
        colours[1, -1, -1, -1] += 1
        tifffile.imwrite(path, colours, photometric="rgb", planarconfig=planar, metadata=None)
        refuses(TypeError, "expected a grey picture, got RGB colours", read_volume, path)

    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_alpha(self, tmp_path: Path, dtype: str, channels: int) -> None:
        grey = _values(dtype, ROWS, COLUMNS)
        opaque = np.full_like(grey, np.iinfo(dtype).max)
        path = tmp_path / "a.tif"

        def write() -> None:
            tifffile.imwrite(
                path,
                np.stack([grey] * channels + [opaque], -1),
                photometric="minisblack" if channels == 1 else "rgb",
                extrasamples=["unassalpha"],
                planarconfig="contig",
            )

        write()
        np.testing.assert_array_equal(_plane(read_stored(path)), grey)
        opaque[2, 3] -= 1
        write()
        refuses(ValueError, "transparent", read_volume, path)

    def test_channels_without_a_meaning_are_refused(self, tmp_path: Path) -> None:
        data = _values("uint8", ROWS, COLUMNS, 2)
        tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack", planarconfig="contig")
        refuses(TypeError, "2 samples a pixel", read_volume, tmp_path / "a.tif")

    def test_a_grey_palette_is_resolved(self, tmp_path: Path) -> None:
        index = _values("uint8", ROWS, COLUMNS)
        grey = np.random.default_rng(1).permutation(256).astype(np.uint16) * 257
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, index, photometric="palette", colormap=np.stack([grey] * 3))
        volume = read_stored(path)
        assert volume.data.dtype == np.uint8
        np.testing.assert_array_equal(_plane(volume), grey[index] // 257)
        fine = grey + 1 - grey // 65535
        tifffile.imwrite(path, index, photometric="palette", colormap=np.stack([fine] * 3))
        np.testing.assert_array_equal(_plane(read_stored(path)), fine[index])
        tifffile.imwrite(path, index, photometric="palette", colormap=np.stack([grey, grey, fine]))
        refuses(TypeError, "PALETTE colours", read_volume, path)

    def test_a_palette_of_four_bits(self, tmp_path: Path) -> None:
        index = np.random.default_rng(0).integers(0, 16, (ROWS, COLUMNS))
        grey = [int(value) * 257 for value in np.random.default_rng(1).permutation(256)[:16]]
        path = _tiff(tmp_path / "a.tif", _packed(index, 4), 4, photometric=3, t320=3 * grey)
        np.testing.assert_array_equal(_plane(read_stored(path)), np.array(grey)[index] // 257)


class TestStacks:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
    @pytest.mark.parametrize("truncate", [True, False])
    def test_slices_of_imagej(self, tmp_path: Path, dtype: str, truncate: bool) -> None:
        data = _values(dtype, 6, ROWS, COLUMNS)
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, data, imagej=True, metadata={"axes": "ZYX"}, truncate=truncate)
        np.testing.assert_array_equal(read_stored(path).data, data)

    @pytest.mark.parametrize("order", [">", "<"])
    def test_images_behind_one_page(self, tmp_path: Path, order: Any) -> None:
        """As ImageJ's own ``images=``, without ``slices=``, of which tifffile takes no notice."""
        data = _values("uint16", 6, ROWS, COLUMNS)
        path = tmp_path / "a.tif"
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
    def test_other_axes_are_refused(self, tmp_path: Path, axes: str, kind: str) -> None:
        data = _values("uint8", *(2, 3)[: len(axes) - 2], ROWS, COLUMNS)
        path = tmp_path / "a.tif"
        options: dict[str, Any] = {kind: True}
        tifffile.imwrite(path, data, metadata={"axes": axes}, **options)
        refuses(ValueError, r"expected slices .* 2 along", read_volume, path)

    def test_slices_of_ome(self, tmp_path: Path) -> None:
        data = _values("int16", 4, ROWS, COLUMNS)
        tifffile.imwrite(tmp_path / "a.tif", data, ome=True, metadata={"axes": "ZYX"})
        np.testing.assert_array_equal(read_stored(tmp_path / "a.tif").data, data)

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
            data = _values("uint8", ROWS, COLUMNS)
            tifffile.imwrite(tmp_path / f"{name}.tif", data, description=description, metadata=None)
        with pytest.raises(ValueError, match="OME description is not of this file alone"):
            read_volume(tmp_path / "first.tif")

    @pytest.mark.parametrize("what", ["shape", "type"])
    def test_pages_that_differ_are_refused(self, tmp_path: Path, what: str) -> None:
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(_values("uint8", ROWS, COLUMNS), metadata=None)
            other = (6, COLUMNS) if what == "shape" else (ROWS, COLUMNS)
            kind = "uint8" if what == "shape" else "int8"
            file.write(_values(kind, *other), metadata=None)
        refuses(ValueError, "its pages differ in shape or type", read_volume, tmp_path / "a.tif")

    @pytest.mark.parametrize("compression", [None, "zlib"])
    def test_every_cut_is_noticed(self, tmp_path: Path, compression: str | None) -> None:
        data = _values("uint16", 3, ROWS, COLUMNS)
        path = tmp_path / "a.tif"
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


class TestPng:
    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_few_bits_are_kept(self, tmp_path: Path, bits: int) -> None:
        data = np.random.default_rng(0).integers(0, 2**bits, (ROWS, COLUMNS))
        volume = read_stored(_png(tmp_path / "a.png", _packed(data, bits), bits, 0))
        np.testing.assert_array_equal(_plane(volume), data)
        assert len(volume.notes) == (bits > 1)

    @pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
    def test_sixteen_bits(self, tmp_path: Path, colour: int, channels: int) -> None:
        grey = _values("uint16", ROWS, COLUMNS)
        grey[0, 0] = 59970
        samples = np.stack([grey] * channels, -1)
        if channels in (2, 4):
            samples[..., -1] = 65535
        path = tmp_path / "a.png"
        volume = read_stored(_png(path, samples.astype(">u2").tobytes(), 16, colour))
        assert volume.data.dtype == np.uint16
        np.testing.assert_array_equal(_plane(volume), grey)
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
            return samples.astype(">u2").tobytes() if bits == 16 else _packed(samples, bits)

        np.testing.assert_array_equal(
            _plane(read_stored(_png(path, rows(), bits, colour, clear))), 0
        )
        grey[2, 3] = value
        refuses(ValueError, "transparent", read_volume, _png(path, rows(), bits, colour, clear))

    def test_an_animation_is_refused(self, tmp_path: Path) -> None:
        pages = [Image.fromarray(page) for page in _values("uint8", 2, ROWS, COLUMNS)]
        pages[0].save(tmp_path / "a.png", save_all=True, append_images=pages[1:])
        refuses(ValueError, "animation of 2", read_volume, tmp_path / "a.png")


def test_content_and_not_the_name_says_what_a_file_is(tmp_path: Path) -> None:
    data = _values("int8", ROWS, COLUMNS)
    tifffile.imwrite(tmp_path / "a.png", data)
    np.testing.assert_array_equal(_plane(read_stored(tmp_path / "a.png")), data)
    Image.new("L", (3, 3)).save(tmp_path / "b.gif")
    (tmp_path / "b.gif").rename(tmp_path / "b.bmp")
    refuses(ValueError, "not a picture file", read_volume, tmp_path / "b.bmp")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_bmp(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(_values("uint8", ROWS, COLUMNS))
    picture = grey.convert(mode)
    picture.save(tmp_path / "a.bmp")
    found = _plane(read_stored(tmp_path / "a.bmp"))
    np.testing.assert_array_equal(found, np.asarray(picture.convert("L" if mode != "1" else "1")))


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
    difference = np.abs(_plane(volume).astype(int) - expected)
    assert difference.max() <= (2 if name == "jpg" else 0)
    assert ["orientation" in note for note in volume.notes] == [True] * (orientation > 1)


@pytest.mark.parametrize("lzw", [True, False])
@pytest.mark.parametrize("orientations", [(6, 6), (1, 3, 2), (5, 8, 7)])
def test_each_page_is_turned_by_its_own_tag(
    tmp_path: Path, orientations: tuple[int, ...], lzw: bool
) -> None:
    data = _values("uint8", len(orientations), ROWS, COLUMNS)
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
    np.testing.assert_array_equal(read_stored(path).data, expected)


def test_pages_turned_to_other_shapes_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for value in (1, 6):
            page = _values("uint8", ROWS, COLUMNS)
            file.write(page, metadata=None, extratags=[(274, "H", 1, value, True)])
    refuses(ValueError, "pages differ in shape", read_volume, tmp_path / "a.tif")


def test_imagejs_slices_are_turned_by_their_one_tag(tmp_path: Path) -> None:
    data = _values("uint8", 4, ROWS, COLUMNS)
    tifffile.imwrite(
        tmp_path / "a.tif", data, imagej=True, metadata={"axes": "ZYX"}, truncate=True,
        extratags=[(274, "H", 1, 6, True)],
    )  # fmt: skip
    expected = np.rot90(data, -1, axes=(1, 2))
    np.testing.assert_array_equal(read_stored(tmp_path / "a.tif").data, expected)
