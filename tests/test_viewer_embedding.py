"""How arrays are put into the report: what is exact, and how far off the rest is."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path
from typing import Any

import browser as browsers
import numpy as np
import pytest
from drawn_head import centred, grid, head, moved
from image_files import oblique
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from plasticine.report.viewer.embedding import (
    FIELD_ERROR,
    embedded_field,
    embedded_image,
    embedded_jacobian,
    embedded_labels,
    packed,
)
from plasticine.report.viewer.grid import ShownGrid
from plasticine.report.viewer.page import asset

SHAPE, OTHER_SHAPE = (21, 18, 15), (16, 20, 24)
OWN = centred(oblique((2.0, 3.0, 4.0), "AIL"), SHAPE)
OTHER = centred(oblique((1.5, 3.5, 2.5), "SLA"), OTHER_SHAPE)


def unpacked(described: dict[str, Any]) -> NDArray[Any]:
    """By NumPy, what the page does by its script."""
    size = described["bits"] // 8
    planes = np.frombuffer(gzip.decompress(base64.b64decode(described["data"])), np.uint8)
    codes = np.ascontiguousarray(planes.reshape(size, -1).T).view(f"<u{size}")
    codes = codes.reshape(described["shape"])
    if not described["differenced"]:
        return codes.astype(f"i{size}") if described["signed"] else codes
    values = (codes >> np.uint8(1)).astype(f"i{size}") ^ -(codes & np.uint8(1)).astype(f"i{size}")
    for axis in (-3, -2, -1):
        values = np.cumsum(values, axis, dtype=values.dtype)
    return values if described["signed"] else values.astype(f"u{size}")


def arrays() -> list[NDArray[Any]]:
    generator = np.random.default_rng(3)
    found = []
    for kind in ("i1", "u1", "i2", "u2", "i4", "u4"):
        ends = np.iinfo(kind)
        values = generator.integers(ends.min, ends.max, (2, 4, 3, 5), kind, endpoint=True)
        values[0, 0, 0, :2] = ends.min, ends.max
        found.append(values)
    return found


@pytest.mark.parametrize("values", arrays(), ids=lambda one: str(one.dtype))
@pytest.mark.parametrize("differenced", [False, True])
def test_whole_numbers_come_back(values: NDArray[Any], differenced: bool) -> None:
    described = packed(values, differenced=differenced)
    found = unpacked(described)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_the_pages_script_decodes_the_same() -> None:
    with browsers.started() as browser:
        page = browser.new_page()
        page.add_script_tag(content=asset("decoding.js"))
        for values in arrays():
            for differenced in (False, True):
                described = packed(values, differenced=differenced)
                found = page.evaluate("async (one) => Array.from(await unpacked(one))", described)
                assert found == values.ravel().tolist(), (values.dtype, differenced)


def test_smooth_arrays_are_short() -> None:
    noise = np.random.default_rng(0).normal(size=(40, 40, 40))
    smooth = np.rint(20000 * gaussian_filter(noise, 5)).astype(np.int16)
    sizes = [len(packed(smooth, differenced=d)["data"]) for d in (False, True)]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_place_on_the_page_is_a_voxel_of_the_file() -> None:
    for affine, shape in ((OWN, SHAPE), (OTHER, OTHER_SHAPE)):
        shown = ShownGrid.of(shape, affine)
        volume = np.random.default_rng(0).normal(size=shape)
        turned = shown.turned(volume)
        place = np.array([3, 5, 7])
        i, j, k = (shown.to_file() @ [*place, 1])[:3].astype(int)
        assert turned[7, 5, 3] == volume[i, j, k]
        # x runs to the right, y to the back, z down.
        steps = (affine @ shown.to_file())[:3, :3]
        assert (np.abs(steps).argmax(0) == [0, 1, 2]).all()
        assert (np.sign(np.diag(steps)) == [1, -1, -1]).all()
        described = shown.described()
        assert described["size"] == list(turned.shape[::-1])


def field() -> NDArray[np.float32]:
    """Of up to 9 voxels, with the map between the two images in it."""
    noise = np.random.default_rng(1).normal(size=(3, *SHAPE))
    bent = 60 * gaussian_filter(noise, (0, 3, 3, 3))
    return (bent + np.array([4.0, -2, 1]).reshape(3, 1, 1, 1)).astype(np.float32)


@pytest.mark.parametrize("every", [1, 2])
def test_a_field_is_as_near_as_it_says(every: int) -> None:
    u = field()
    own, other = ShownGrid.of(SHAPE, OWN), ShownGrid.of(OTHER_SHAPE, OTHER)
    described = embedded_field(own, other, u, every=every)
    codes = unpacked(described["codes"]).astype(np.float64)
    # The page's map at the voxels of the file, in voxels of the other file.
    voxels = np.indices(SHAPE, dtype=np.float64)
    places = moved(voxels, np.linalg.inv(own.to_file()))
    kept = places[::-1].reshape(3, -1) / every
    moves = [map_coordinates(one, kept, order=1, mode="nearest") for one in codes]
    affine = np.vstack([described["affine"], [0, 0, 0, 1]])
    found = moved(places, affine) + described["step"] * np.reshape(moves, places.shape)
    in_file = moved(found, other.to_file())
    there = np.linalg.inv(OTHER) @ OWN
    expected = moved(voxels + u, there)
    error = in_file - expected
    back = np.einsum("ij,j...->i...", np.linalg.inv(there)[:3, :3], error)
    most = max(np.linalg.norm(error, axis=0).max(), np.linalg.norm(back, axis=0).max())
    assert most == pytest.approx(described["error"], abs=1e-6)
    assert bool(most < FIELD_ERROR) is (every == 1)


def test_a_far_field_takes_more_bits() -> None:
    u = np.zeros((3, *SHAPE), np.float32)
    u[0, 5] = 3000.0
    own = ShownGrid.of(SHAPE, OWN)
    described = embedded_field(own, own, u)
    assert described["codes"]["bits"] == 32
    assert described["error"] < FIELD_ERROR


def test_folds_stay_folds() -> None:
    values = np.array([-2.0, -1e-6, 0, 1e-6, 0.3, np.nan, 100, np.inf]).reshape(2, 2, 2)
    own = ShownGrid.of((2, 2, 2), np.eye(4))
    described = embedded_jacobian(own, values)
    found = unpacked(described["codes"]) * described["step"]
    turned = own.turned(values)
    np.testing.assert_array_equal(found > 0, turned > 0)
    near = np.abs(turned) < 50
    np.testing.assert_allclose(found[near], turned[near], atol=0.0021)


def test_images_and_labels() -> None:
    own = ShownGrid.of(SHAPE, OWN)
    image = head(grid(SHAPE, OWN))
    described = embedded_image(own, image, (0, 100))
    assert not described["exact"]
    found = described["offset"] + described["step"] * unpacked(described["codes"])
    np.testing.assert_allclose(found, own.turned(image), atol=image.max() / 4095 / 1.9)
    for whole, bits in ((np.rint(image), 8), (np.rint(15 * image), 16)):
        described = embedded_image(own, whole, (0, 100))
        assert described["exact"]
        assert described["codes"]["bits"] == bits
        found = described["offset"] + described["step"] * unpacked(described["codes"])
        np.testing.assert_array_equal(found, own.turned(whole))
    flat = embedded_image(own, np.full(SHAPE, 0.3), (0, 1))
    assert flat["offset"] == 0.3
    labels = np.random.default_rng(0).choice([-5, 0, 7, 2**40], SHAPE)
    described = embedded_labels(own, labels)
    names = np.array(described["labels"])
    np.testing.assert_array_equal(names[unpacked(described["codes"])], own.turned(labels))


def test_the_library_of_the_page_is_its_own(tmp_path: Path) -> None:
    for name in ("viewer.html", "index.html"):
        assert "://" not in asset(name)
