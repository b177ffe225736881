"""φ refined while the picture is sampled."""

from __future__ import annotations

import pytest
import torch
from small_models import images, untrained

import plasticine
from plasticine.demo import MODEL, load_template_slices
from plasticine.io.model_images import model_images
from plasticine.translation import Translator

STEPS, REFINE = 4, 2
SMALL = {
    "structure": {"name": "mind", "dilations": [1]},
    "schedule_steps": 100,
    "deviation": 0.1,
    "steps": STEPS,
}


@pytest.mark.parametrize("size", [(16, 20), (8, 10, 12)])
@torch.no_grad()
def test_the_refined_deformation_is_what_a_loop_by_hand_gives(size: tuple[int, ...]) -> None:
    translator = untrained(len(size), **SMALL)
    trace = translator.translate(images(1, 1, *size), refine=REFINE)

    model = translator.model
    schedule = model.denoiser.schedule
    x = 2 * trace.source - 1
    structure = model.structure(x)
    u, inverse = model.velocity(x).displacements()
    noise = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(0))
    y = schedule.add_noise(plasticine.warp(x, u), noise, torch.tensor([100]))
    for run, here in enumerate((100, 75, 50, 25), 1):
        k = torch.tensor([here])
        clean = model.denoiser.predict(y, plasticine.warp(structure, u), k)[0].clamp(-1, 1)
        signal, spread = schedule.levels(k, len(size))
        noise = (y - signal * clean) / spread
        if run <= REFINE:
            v = model.velocity(plasticine.warp(x, u), clean, noise).velocity
            w, w_inverse = plasticine.exponential(v, inverse=True)
            assert w.abs().max() > 0.01
            # φ∘δ: p + w(p), and from there u; and backwards δ⁻¹∘φ⁻¹.
            u = w + plasticine.warp(u, w)
            inverse = inverse + plasticine.warp(w_inverse, inverse)
        y = schedule.add_noise(clean, noise, k - 25)
    torch.testing.assert_close(trace.displacement, u)
    torch.testing.assert_close(trace.inverse_displacement, inverse)
    torch.testing.assert_close(trace.translated, (y + 1) / 2)
    torch.testing.assert_close(trace.warped, plasticine.warp(trace.source, u))
    torch.testing.assert_close(trace.jacobian, plasticine.jacobian_determinant(u))
    assert trace.arguments["refine"] == REFINE


def test_without_refinement_the_deformation_is_the_first_one() -> None:
    translator = untrained(2, **SMALL)
    trace = translator.translate(images(1, 1, 16, 16))
    with torch.no_grad():
        u, inverse = translator.model.velocity(2 * trace.source - 1).displacements()
    assert torch.equal(trace.displacement, u)
    assert torch.equal(trace.inverse_displacement, inverse)
    assert trace.arguments["refine"] == 0


def test_a_refined_image_does_not_depend_on_its_batch() -> None:
    translator, several = untrained(2, **SMALL), images(3, 1, 16, 16)
    together = translator.translate(several, refine=REFINE)
    apart = translator.translate(several, refine=REFINE, batch=1)
    for name in ("translated", "displacement", "inverse_displacement"):
        torch.testing.assert_close(getattr(together, name), getattr(apart, name))


def test_all_samples_share_one_deformation() -> None:
    translator, image = untrained(2, **SMALL), images(1, 1, 16, 16)
    one = translator.translate(image, refine=REFINE)
    two = translator.translate(image, refine=REFINE, samples=2)
    assert torch.equal(one.displacement, two.displacement)
    assert not torch.equal(one.translated, two.translated)


def test_the_shipped_model_refines_without_folds() -> None:
    pytest.importorskip("nilearn")
    translator = Translator.load(MODEL)
    images = model_images(load_template_slices(), translator.card).images[2:5]
    plain = translator.translate(images, steps=3)
    refined = translator.translate(images, steps=3, refine=1)
    assert (refined.displacement - plain.displacement).abs().max() > 0.1
    assert int(refined.folding.folds.sum()) == 0
    assert refined.inverse_consistency.max() < 0.1  # of a voxel, at the border


def test_refinements_without_room_are_refused() -> None:
    translator, image = untrained(2, **SMALL), images(1, 1, 16, 16)
    with pytest.raises(ValueError, match=f"at most {STEPS - 1}; got {STEPS}"):
        translator.translate(image, refine=STEPS)
    with pytest.raises(ValueError, match="refine must be at least 0; got -1"):
        translator.translate(image, refine=-1)
    with pytest.raises(ValueError, match="deform=False forbids"):
        translator.translate(image, refine=1, deform=False)
