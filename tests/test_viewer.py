"""The interactive report, in a real browser: what is hovered, carried, drawn and laid over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import browser as browsers
import nibabel
import numpy as np
import pytest
from drawn_head import bent, centred, grid, head, labels, moved, turned
from image_files import oblique, reoriented
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from small_models import NORMALISATION, deforming

from plasticine.io import (
    read_displacement,
    read_volume,
    register_volumes,
    translate_volume,
    write_image,
    write_labels,
)
from plasticine.report import write_registration, write_results
from plasticine.report.viewer import read_case, write_report
from plasticine.translation import Translator

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FIXED_SHAPE, MOVING_SHAPE = (30, 34, 28), (40, 32, 34)
FIXED = centred(np.diag([-5.5, 5, 5.5, 1]), FIXED_SHAPE)
MOVING = centred(oblique((4.5, 5.5, 5.0), "SLA"), MOVING_SHAPE)

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.started() as one:
        yield one


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads on unlike grids, with labels."""
    folder = tmp_path_factory.mktemp("registered")
    places = moved(bent(grid(FIXED_SHAPE, FIXED)), turned(10, (5, -6, 8)))
    write_image(folder / "moving.nii.gz", head(grid(MOVING_SHAPE, MOVING)), MOVING)
    write_image(folder / "fixed.nii.gz", head(places), FIXED)
    write_labels(folder / "moving_labels.nii.gz", labels(grid(MOVING_SHAPE, MOVING)), MOVING)
    result = register_volumes(
        read_volume(folder / "moving.nii.gz"),
        read_volume(folder / "fixed.nii.gz"),
        budget="fast",
        moving_labels=folder / "moving_labels.nii.gz",
    )
    write_registration(result, folder)
    write_report(read_case(folder), folder / "report.html")
    return folder


@pytest.fixture(scope="module")
def registered_slice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slices of unlike sizes."""
    folder = tmp_path_factory.mktemp("slice")
    for name, spacing, shape in (("moving", 2.5, (60, 66, 1)), ("fixed", 3.0, (52, 58, 1))):
        affine = centred(np.diag([-spacing, spacing, 4, 1]), shape)
        places = grid(shape, affine)
        write_image(
            folder / f"{name}.nii.gz", head(bent(places) if spacing > 2.5 else places), affine
        )
    volumes = [read_volume(folder / f"{name}.nii.gz") for name in ("moving", "fixed")]
    write_registration(register_volumes(*volumes, budget="fast"), folder)
    write_report(read_case(folder), folder / "report.html")
    return folder


@pytest.fixture(scope="module")
def translated(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Path:
    """One oblique slice, by a model that moves it."""
    folder = tmp_path_factory.mktemp("translated")
    affine = oblique((1.4, 1.7, 5.0))
    image = head(grid((64, 60, 1), centred(np.diag([2.3, 3, 5, 1]), (64, 60, 1))))
    stored = reoriented(nibabel.Nifti1Image(image, affine), "PRS")
    nibabel.save(stored, folder / "source.nii.gz")
    result = translate_volume(
        Translator.load(model_file), read_volume(folder / "source.nii.gz"), seed=2
    )
    write_results(result, folder, model_file=model_file, structure=True)
    deviation = 0.1 * result.grid.to_file(result.source)
    write_image(folder / "uncertainty.nii.gz", deviation, result.affine)
    write_report(read_case(folder), folder / "report.html")
    return folder


@pytest.fixture(scope="module")
def translated_volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume, by a model of three axes."""
    folder = tmp_path_factory.mktemp("volume")
    model = deforming(ndim=3, denoiser={"channels": [4, 4], "blocks": 1})
    card = {"name": "solid", "ndim": 3, "spacing_mm": 6.0, "orientation": "LPS"}
    card["normalisation"] = NORMALISATION
    write_image(folder / "source.nii.gz", head(grid(FIXED_SHAPE, FIXED)), FIXED)
    result = translate_volume(Translator(model, card), read_volume(folder / "source.nii.gz"))
    write_results(result, folder)
    write_report(read_case(folder), folder / "report.html")
    return folder


class Map:
    """φ of a file of results, from voxels of one image to voxels of another, by SciPy."""

    def __init__(self, field: Path, own: Path, other: Path) -> None:
        self.field, _ = read_displacement(field)
        self.own, self.other = (nibabel.load(path).affine for path in (own, other))

    def __call__(self, voxels: Array) -> Array:
        """``(3, N)``."""
        moves = [
            map_coordinates(u.astype(np.float64), voxels, order=1, mode="nearest")
            for u in self.field
        ]
        return moved(voxels + moves, np.linalg.inv(self.other) @ self.own)


def numbers(page: Page, name: str) -> Array:
    text = page.locator(f'[data-value="{name}"]').inner_text()
    return np.array([float(number) for number in re.findall(r"-?\d+\.?\d*", text)])


def pointed(page: Page, pane: str, across: float, down: float) -> tuple[float, float]:
    """A place within an image's box, by shares, on the screen."""
    box = page.locator(f"canvas[data-pane={pane}]").bounding_box()
    assert box is not None
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def settle(page: Page) -> None:
    """Waits until what was asked for is drawn."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def hover(page: Page, pane: str, across: float, down: float) -> None:
    page.mouse.move(*pointed(page, pane, across, down))
    settle(page)


def picture(page: Page, pane: str) -> str:
    settle(page)
    text: str = page.locator(f"canvas[data-pane={pane}]").evaluate("one => one.toDataURL()")
    return text


def maps_of(folder: Path) -> tuple[Map, Map | None]:
    """φ, and where it is written φ⁻¹."""
    if not (folder / "inverse_displacement.nii.gz").exists():
        image = folder / "source.nii.gz"
        return Map(folder / "displacement.nii.gz", image, image), None
    fixed, moving = folder / "fixed.nii.gz", folder / "moving.nii.gz"
    return (
        Map(folder / "displacement.nii.gz", fixed, moving),
        Map(folder / "inverse_displacement.nii.gz", moving, fixed),
    )


CASES = ("registered", "registered_slice", "translated", "translated_volume")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


class TestCrosshair:
    def test_hovering_the_target_shows_where_it_came_from(
        self, browser: Browser, case: Path
    ) -> None:
        page = browsers.opened(browser, case / "report.html")
        forward, _ = maps_of(case)
        for plane in page.locator("input[name=plane]").all():
            plane.check()
            for share in ((0.31, 0.42), (0.55, 0.6), (0.77, 0.35)):
                hover(page, "target", *share)
                there = numbers(page, "target voxel")
                found = numbers(page, "source voxel")
                assert np.abs(forward(there[:, None])[:, 0] - found).max() < 0.05
                assert np.abs(forward(there[:, None])[:, 0] - there).max() > 0.05

    def test_hovering_the_source_shows_where_it_went(self, browser: Browser, case: Path) -> None:
        page = browsers.opened(browser, case / "report.html")
        forward, backward = maps_of(case)
        hover(page, "source", 0.45, 0.52)
        here, found = numbers(page, "source voxel"), numbers(page, "target voxel")
        if backward is None:  # φ takes it back
            assert np.abs(forward(found[:, None])[:, 0] - here).max() < 0.1
        else:
            assert np.abs(backward(here[:, None])[:, 0] - found).max() < 0.05

    def test_the_pointer_is_where_the_voxel_is(self, browser: Browser, registered: Path) -> None:
        """Axial, of an image of axes L, A, S: columns run against axis 0, rows against axis 1."""
        page = browsers.opened(browser, registered / "report.html")
        hover(page, "target", 0.31, 0.42)
        x, y, _ = numbers(page, "target voxel")
        assert x == pytest.approx(FIXED_SHAPE[0] - 1 - (0.31 * FIXED_SHAPE[0] - 0.5), abs=0.05)
        assert y == pytest.approx(FIXED_SHAPE[1] - 1 - (0.42 * FIXED_SHAPE[1] - 0.5), abs=0.05)
        place = moved(numbers(page, "target voxel")[:, None], FIXED)[:, 0]
        assert np.abs(place - numbers(page, "target mm (R, A, S)")).max() < 0.05

    def test_what_lies_there(self, browser: Browser, registered: Path) -> None:
        page = browsers.opened(browser, registered / "report.html")
        hover(page, "target", 0.45, 0.55)
        page.locator("canvas[data-pane=target]").press("ArrowRight")
        settle(page)
        voxel = numbers(page, "target voxel")
        index = tuple(int(i) for i in voxel)
        assert voxel == pytest.approx(np.round(voxel))  # keys go from voxel to voxel
        for name, file, error in (
            ("target intensity", "fixed", 0.5),
            ("Jacobian", "jacobian", 0.003),
        ):
            expected = np.asarray(nibabel.load(registered / f"{file}.nii.gz").dataobj)[index]
            assert numbers(page, name)[0] == pytest.approx(expected, abs=error)
        carried = np.asarray(nibabel.load(registered / "labels.nii.gz").dataobj)[index]
        assert numbers(page, "target label") == carried
        page.wait_for_timeout(700)
        assert "Jacobian" in page.locator("#spoken").inner_text()

    def test_keys_and_sliders_choose_the_slice(self, browser: Browser, registered: Path) -> None:
        page = browsers.opened(browser, registered / "report.html")
        page.locator("canvas[data-pane=target]").focus()
        page.keyboard.press("ArrowUp")
        settle(page)
        before = numbers(page, "target voxel")
        page.keyboard.press("PageDown")
        settle(page)
        assert np.abs(numbers(page, "target voxel") - before).tolist() == [0, 0, 1]
        page.locator("input[type=range][aria-label='Slice of the moving image']").fill("7")
        settle(page)
        # Slices are counted from above; the moving image's axis 1 runs to S.
        assert numbers(page, "source voxel")[1] == MOVING_SHAPE[1] - 1 - 7


class TestMarks:
    @pytest.mark.parametrize("pane", ["source", "target"])
    def test_a_contour_is_carried(self, browser: Browser, registered: Path, pane: str) -> None:
        page = browsers.opened(browser, registered / "report.html")
        page.check("input[value=contour]")
        angles = np.linspace(0, 2 * np.pi, 9)[:-1]
        corners = []
        for angle in angles:
            page.mouse.click(
                *pointed(page, pane, 0.5 + 0.2 * np.cos(angle), 0.5 + 0.17 * np.sin(angle))
            )
            settle(page)
            corners.append(numbers(page, f"{pane} voxel"))
        page.locator(f"canvas[data-pane={pane}]").press("Enter")
        forward, backward = maps_of(registered)
        assert backward is not None
        drawn = outlined(np.array(corners).T)
        mapping = forward if pane == "target" else backward
        other = "source" if pane == "target" else "target"
        for name, places, affine in (
            (pane, drawn, mapping.own),
            (other, mapping(drawn), mapping.other),
        ):
            length, area = measured(moved(places, affine))
            said = numbers(page, f"{name} contour 1")
            assert said[0] == pytest.approx(length, rel=0.004)
            assert said[1] == pytest.approx(area, rel=0.004)
        assert abs(numbers(page, "source contour 1")[1] - numbers(page, "target contour 1")[1]) > 1

    def test_a_ruler_is_carried(self, browser: Browser, translated: Path) -> None:
        page = browsers.opened(browser, translated / "report.html")
        page.check("input[value=ruler]")
        ends = []
        page.mouse.move(*pointed(page, "target", 0.3, 0.3))
        page.mouse.down()
        settle(page)
        ends.append(numbers(page, "target voxel"))
        page.mouse.move(*pointed(page, "target", 0.7, 0.6), steps=4)
        settle(page)
        ends.append(numbers(page, "target voxel"))
        page.mouse.up()
        forward, _ = maps_of(translated)
        line = np.linspace(*ends, 400).T
        for name, places in (("target", line), ("source", forward(line))):
            steps = np.diff(moved(places, forward.own), axis=1)
            expected = np.linalg.norm(steps, axis=0).sum()
            assert numbers(page, f"{name} ruler 1")[0] == pytest.approx(expected, rel=0.003)

    def test_pins_freehand_and_taking_away(self, browser: Browser, registered: Path) -> None:
        page = browsers.opened(browser, registered / "report.html")
        before = picture(page, "source")
        page.mouse.click(*pointed(page, "target", 0.4, 0.4))
        assert page.locator("#marks tbody tr").count() == 1
        assert picture(page, "source") != before
        page.check("input[value=contour]")
        page.mouse.move(*pointed(page, "source", 0.4, 0.4))
        page.mouse.down()
        for share in ((0.6, 0.4), (0.6, 0.6), (0.4, 0.6)):
            page.mouse.move(*pointed(page, "source", *share), steps=5)
        page.mouse.up()
        assert page.locator("#marks tbody tr").count() == 2
        page.get_by_label("Remove pin 1").click()
        assert page.locator("#marks tbody th").inner_text() == "1 contour"
        page.get_by_text("Remove all").click()
        assert page.locator("#marks").is_hidden()


def outlined(corners: Array) -> Array:
    """Places along a closed outline, ``(3, N)``."""
    following = np.roll(corners, -1, 1)
    shares = np.linspace(0, 1, 60, endpoint=False)
    return np.concatenate(
        [
            a[:, None] + (b - a)[:, None] * shares
            for a, b in zip(corners.T, following.T, strict=True)
        ],
        axis=1,
    )


def measured(places: Array) -> tuple[float, float]:
    """Length and area of a closed outline in space."""
    steps = np.roll(places, -1, 1) - places
    turns = np.cross(places.T, np.roll(places, -1, 1).T) / 2
    return float(np.linalg.norm(steps, axis=0).sum()), float(np.linalg.norm(turns.sum(0)))


class TestOverlays:
    def test_each_changes_the_picture_and_goes_again(self, browser: Browser, case: Path) -> None:
        page = browsers.opened(browser, case / "report.html")
        hover(page, "target", 0.5, 0.5)
        expected = {"grid", "arrows", "jacobian", "residual", "validity"}
        boxes = page.locator("input[name=overlay]").all()
        found = {box.get_attribute("value") for box in boxes}
        held = {"registered": {"labels"}, "translated": {"structure", "uncertainty"}}
        assert found == expected | held.get(case.name[:-1], set())
        plain = picture(page, "target")
        for box in boxes:
            box.check()
            laid = picture(page, "target")
            if box.get_attribute("value") != "validity":
                assert laid != plain, box.get_attribute("value")
            box.uncheck()
            assert picture(page, "target") == plain

    def test_comparisons(self, browser: Browser, registered: Path) -> None:
        page = browsers.opened(browser, registered / "report.html")
        hover(page, "target", 0.5, 0.5)
        pictures = [picture(page, "target")]
        for mode in ("blend", "swipe", "flicker"):
            page.select_option("#compare", mode)
            pictures.append(picture(page, "target"))
            if mode != "flicker":
                page.locator("#amount").fill("0.8")
                pictures.append(picture(page, "target"))
                page.locator("#amount").fill("0.5")
        page.select_option("#carried", "placed")
        pictures.append(picture(page, "target"))
        assert len(set(pictures)) == len(pictures)
        page.select_option("#compare", "flicker")
        shown = [picture(page, "target")]
        page.wait_for_timeout(800)
        assert picture(page, "target") != shown[0]

    def test_window_by_drag_and_back(self, browser: Browser, registered: Path) -> None:
        page = browsers.opened(browser, registered / "report.html")
        page.check("input[value=window]")
        plain = picture(page, "source")
        page.mouse.move(*pointed(page, "source", 0.5, 0.5))
        page.mouse.down()
        page.mouse.move(*pointed(page, "source", 0.7, 0.6), steps=3)
        page.mouse.up()
        assert picture(page, "source") != plain
        page.get_by_label("Reset the window of the moving image").click()
        assert picture(page, "source") == plain


def test_the_page_needs_nothing_else(registered: Path) -> None:
    text = (registered / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<link|href=|\bsrc=|url\(|@import|https?://", text)
    assert "<!--" not in text


def test_it_prints_to_one_page(browser: Browser, registered: Path) -> None:
    page = browsers.opened(browser, registered / "report.html")
    printed: Any = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1
