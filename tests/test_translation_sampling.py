"""How a translation is sampled: seeds, samples, solvers."""

from __future__ import annotations

import copy

import pytest
import torch
from small_models import images, untrained

from plasticine.diffusion import SOLVERS, sample
from plasticine.translation import Translator
from plasticine.translation.sampling import Sampling, antithetic_noise, mean_sample
from plasticine.translation.warped_source import WarpedSource

SCHEDULE = {name: solver.schedules[0] for name, solver in SOLVERS.items()}


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_image_does_not_depend_on_its_batch(solver: str) -> None:
    several = images(5, 1, 16, 16)
    translator = untrained(schedule=SCHEDULE[solver])
    together = translator.translate(several, batch=5, solver=solver)
    apart = translator.translate(several, batch=2, solver=solver)
    alone = translator.translate(several[3:4], solver=solver)
    for name in ("translated", "displacement", "structure_agreement"):
        torch.testing.assert_close(getattr(together, name), getattr(apart, name))
        torch.testing.assert_close(getattr(together, name)[3:4], getattr(alone, name))


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
        ),
    ],
)
def test_a_compiled_denoiser_draws_the_same(device: str) -> None:
    """Guided, so that the network runs twice before either result is used."""
    image = images(1, 1, 16, 16)
    model = untrained().model
    expected = Translator(model, {}, device).translate(image, guidance=2.0)
    compiled = Translator(copy.deepcopy(model), {}, device, compile=True)
    for _ in range(2):
        found = compiled.translate(image, guidance=2.0)
        torch.testing.assert_close(found.translated, expected.translated, rtol=0, atol=1e-4)
    assert compiled.model.state_dict().keys() == model.state_dict().keys()


def test_the_mean_of_samples() -> None:
    image = images(1, 1, 16, 16)
    translator = untrained()
    calls: list[tuple[int, int]] = []
    both = translator.translate(
        image, samples=2, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(i, 6) for i in range(1, 7)]
    one = translator.translate(image)
    assert not torch.equal(one.translated, both.translated)
    assert both.arguments["samples"] == 2


def test_samples_begin_from_pairs_of_opposite_noise() -> None:
    """And what a solver adds on its way is another for each of them."""
    image = images(2, 1, 16, 16)
    begun = [antithetic_noise(image, 3, index) for index in range(4)]
    noises = [noise for noise, _ in begun]
    added = torch.stack([torch.randn(256, generator=generator) for _, generator in begun])
    assert torch.equal(noises[0], -noises[1])
    assert torch.equal(noises[2], -noises[3])
    drawn = torch.cat([noises[0][0].view(1, -1), noises[2][0].view(1, -1), added])
    assert drawn.corrcoef().triu(1).abs().max() < 0.3
    assert not torch.equal(antithetic_noise(image, 4, 0)[0], noises[0])


def test_options_are_one_object_or_keywords() -> None:
    image, translator = images(1, 1, 16, 16), untrained()
    chosen = {"steps": 2, "samples": 3, "seed": 4, "guidance": 2.0, "start": 0.5}
    chosen |= {"slab": 8, "overlap": 4}
    whole = translator.translate(image, sampling=Sampling.of(translator.model, **chosen))
    apart = translator.translate(image, **chosen, mirror=None)
    assert whole.arguments == apart.arguments
    assert whole.arguments.items() >= chosen.items()
    assert torch.equal(whole.translated, apart.translated)
    both = translator.translate(image, sampling=Sampling(steps=1, guidance=0.5, seed=3), seed=0)
    assert both.arguments.items() >= {"steps": 1, "guidance": 0.5, "seed": 0}.items()
    with pytest.raises(TypeError, match="unexpected keyword argument 'stepz'"):
        translator.translate(image, stepz=3)


@pytest.mark.parametrize("mirror", [False, True])
def test_every_second_pair_of_samples_is_drawn_in_the_mirror(mirror: bool) -> None:
    x = 2 * images(2, 1, 16, 14) - 1
    model = untrained(still=True).model
    source = WarpedSource.undeformed(x, model.structure(x, "source"))
    first = torch.randn(1, 1, 16, 14, generator=torch.Generator().manual_seed(0))
    third = torch.randn(1, 1, 16, 14, generator=torch.Generator().manual_seed(2))
    k = torch.full((2,), 1000)
    drawn = []
    for index, noise in enumerate((first, -first, third, -third)):
        axes = [3] if mirror and index >= 2 else []
        noisy = model.denoiser.schedule.add_noise(x, noise.expand_as(x), k).flip(axes)
        condition = source.structure.flip(axes)
        with torch.no_grad():
            y = sample(model.denoiser, noisy, condition, steps=3, start=1000)
        drawn.append(y.flip(axes))
    sampling = Sampling.of(model, samples=4, mirror=mirror)
    with torch.no_grad():
        mean, _, _ = mean_sample(model, source, sampling, lambda: None)
    torch.testing.assert_close(mean, torch.stack(drawn).mean(0))


def test_the_model_chooses_mirrored_samples() -> None:
    assert not Sampling.of(untrained().model).mirror
    model = untrained(mirror=True).model
    assert Sampling.of(model).mirror
    assert not Sampling.of(model, mirror=False).mirror


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_repeats_its_bits_and_is_in_the_trace(solver: str) -> None:
    image = images(1, 1, 16, 16)
    translator = untrained(schedule=SCHEDULE[solver])
    calls: list[tuple[int, int]] = []
    arguments = {"solver": solver, "steps": 5, "guidance": 2.0, "start": 0.7}
    first = translator.translate(
        image, **arguments, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(i, 5) for i in range(1, 6)]
    assert arguments.items() <= first.arguments.items()
    assert torch.equal(first.translated, translator.translate(image, **arguments).translated)
    other = translator.translate(image, **arguments, seed=1)
    assert not torch.equal(first.translated, other.translated)


def test_the_model_chooses_the_solver() -> None:
    """A file without a name in it, of before there was one, means DDIM."""
    image = images(1, 1, 16, 16)
    assert untrained().translate(image).arguments["solver"] == "ddim"
    assert untrained(schedule="flow").translate(image).arguments["solver"] == "euler"
    assert Translator.load("brain-t1-t2").model.configuration.sampling.solver == "ddim"
    chosen = untrained(solver="dpm-solver++").translate(image)
    assert chosen.arguments["solver"] == "dpm-solver++"


def test_solvers_that_do_not_suit_the_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ddpm, ddim, dpm-solver\+\+ .*got 'heun'"):
        untrained().translate(images(1, 1, 8, 8), solver="heun")
    with pytest.raises(ValueError, match=r"euler, heun .*got 'ddim'"):
        untrained(schedule="flow", solver="ddim")


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_later_start_stays_nearer_to_the_source(solver: str) -> None:
    image = images(1, 1, 16, 16)
    translator = untrained(still=True, schedule=SCHEDULE[solver])
    distance = [
        (translator.translate(image, start=start, solver=solver).translated - image).abs().mean()
        for start in (0.05, 1.0)
    ]
    assert distance[0] < distance[1]


def test_nothing_is_drawn_around_the_body() -> None:
    image = torch.full((2, 1, 16, 20), 0.05)
    image[:, :, 4:12, 5:15] = 0.8
    image[:, :, 7:9, 8:12] = 0.0  # a dark place inside is not background
    trace = untrained(background=0.1).translate(image, deform=False)
    around = torch.ones_like(image, dtype=torch.bool)
    around[:, :, 4:12, 5:15] = False
    assert (trace.translated[around] == 0).all()
    assert (trace.translated[~around] > 0).any()
    assert (trace.translated[:, :, 7:9, 8:12] > 0).any()
    whole = untrained().translate(image, deform=False)
    assert (whole.translated[around] > 0).any()
    assert torch.equal(whole.translated[~around], trace.translated[~around])
