"""The peers of the translation benchmark: small, but each must do what its name says."""

from __future__ import annotations

from pathlib import Path

import checkout  # noqa: F401  puts the benchmarks on the path
import pytest
import torch
from torch.nn import functional

from benchmarks.translation.baselines import look_up_table
from benchmarks.translation.compare import Peers, Settings, compare, methods, table
from benchmarks.translation.cycle_gan import CycleGAN, ReplayBuffer
from benchmarks.translation.held_out import draw, measure, score
from benchmarks.translation.learning import Budget, Draw, SingleLoss, train
from benchmarks.translation.paired import PairedLoss
from benchmarks.translation.registered_target import register
from benchmarks.translation.task import CROP, Task, from_network, to_network
from benchmarks.translation.unconditional import ddib, sdedit, unconditional_denoiser
from plasticine import gaussian_smooth
from plasticine.diffusion import ImageUNet
from plasticine.reference.shift import shift
from plasticine.training.data import RandomDeformation
from plasticine.translation import TranslationModel, Translator

NETWORK = {"channels": [8, 8], "blocks": 1, "patch_size": 2}
GAN = {"channels": 4, "blocks": 1}
STILL = RandomDeformation()


def blobs(count: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Smooth images within [0, 1], dark at their edge."""
    noise = torch.rand((count, 1, *size), generator=torch.Generator().manual_seed(seed))
    window = torch.outer(*(torch.hann_window(n, periodic=False) for n in size))
    smooth = gaussian_smooth(noise, 2) * window
    return smooth / smooth.amax()


@pytest.fixture
def task() -> Task:
    """A target that is the source's negative inside of it."""
    source = blobs(6, (112, 112))
    body = source > 0.05
    target = (1 - source) * body
    return Task(
        name="T1-T2",
        source=to_network(source[:4]),
        target=to_network(target[:4].flip(0)),
        pairs=(to_network(source[:4]), to_network(target[:4])),
        test={
            "source": source[4:],
            "truth": target[4:],
            "mask": body[4:],
            "target": target[:4],
        },
        data="blobs",
    )


def test_every_method_translates(task: Task, tmp_path: Path) -> None:
    settings = Settings(Budget(steps=1), tmp_path, network=NETWORK, gan=GAN, steps=2, iterations=2)
    peers = Peers(task, settings)
    figures, images = compare(task, peers, [], samples=1)
    assert set(figures) == set(images) == set(methods(task, peers))
    for name, image in images.items():
        assert image.shape == task.test["source"].shape, name
        assert torch.isfinite(image).all(), name
        assert figures[name]["frechet_distance"] > 0, name
    assert set(peers.training) == {
        "paired U-Net",
        "CycleGAN",
        "source diffusion",
        "target diffusion",
    }
    kept, few = Peers(task, settings), ("SDEdit", "DDIB")
    figures_without, _ = compare(task, kept, [], samples=1, without=few)
    assert set(figures) - set(figures_without) == {n for n in figures if n.startswith(few)}
    assert set(kept.training) == {"paired U-Net", "CycleGAN"}
    assert len(table(figures).splitlines()) == 2 + len(figures)
    # Pairs that a grey level alone decides are the look-up table's best case.
    assert figures["look-up table"]["psnr"] > max(
        figures["mask alone"]["psnr"], figures["identity"]["psnr"]
    )


def test_held_out_measures_and_draws_every_way_to_translate(task: Task, tmp_path: Path) -> None:
    model = {
        "ndim": 2,
        "structure": {"name": "kmeans", "clusters": 3},
        "schedule": {"kind": "cosine", "steps": 1000},
        "denoiser": NETWORK,
        "velocity": {"channels": [4, 4]},
        "sampling": {"steps": 1, "guidance": 1.0, "start": 1.0},
    }
    translator = Translator(TranslationModel(model), {"name": "untrained"})
    figures, traces = measure(translator, task.test, samples=2, every=2, precision="bfloat16")
    assert figures["identity"]["psnr"] == pytest.approx(
        score(task.test["source"][::2], {k: v[::2] for k, v in task.test.items()})["psnr"]
    )
    ours = {name: values for name, values in figures.items() if "samples" in name}
    assert len(ours) == 4
    assert all(values["folds"] == 0 for values in ours.values())
    assert traces["still"].arguments["precision"] == "bfloat16"
    assert not traces["still"].displacement.any()
    draw("T1-T2", traces, task.test, 2, tmp_path / "held_out.png")
    assert (tmp_path / "held_out.png").stat().st_size > 0


def test_look_up_table_is_the_mean_at_each_level() -> None:
    source = torch.tensor([0, 0, 2, 4]).view(1, 1, 2, 2) / 255
    target = torch.tensor([0.2, 0.4, 0.5, 1.0]).view(1, 1, 2, 2)
    asked = torch.tensor([0, 1, 2, 3, 9]).view(1, 1, 1, 5) / 255
    answer = look_up_table(asked, (source, target)).flatten()
    torch.testing.assert_close(answer, torch.tensor([0.3, 0.4, 0.5, 0.75, 1.0]))


def test_crop_and_its_inverse_meet() -> None:
    image = torch.rand(1, 1, 112, 112)
    rows, columns = ((112 - cut) // 2 for cut in CROP)
    back = from_network(to_network(image), image.shape[2:])
    inside = (..., slice(rows, rows + CROP[0]), slice(columns, columns + CROP[1]))
    torch.testing.assert_close(back[inside], image[inside])
    assert int((back > 0).sum()) == int((back[inside] > 0).sum())


def test_the_paired_network_learns_a_map_and_is_kept(tmp_path: Path) -> None:
    source = 2 * blobs(4, (16, 16)) - 1
    draw = Draw((source, -source), STILL, 4)

    def learner() -> SingleLoss:
        torch.manual_seed(0)
        model = ImageUNet(2, 1, 1, **NETWORK)
        return SingleLoss(model, PairedLoss(model, draw), learning_rate=5e-3, ema=0.5)

    first, again = learner(), learner()
    path, budget = tmp_path / "paired.safetensors", Budget(steps=40)
    before = functional.mse_loss(first.trained()(source), -source).item()
    took = train("paired", first, budget, path, {"task": "toy"}, 0)
    assert took["steps"] == 40
    answer = first.trained()(source)
    assert functional.mse_loss(answer, -source).item() < 0.2 * before
    assert train("paired", again, budget, path, {"task": "toy"}, 0) == took
    assert torch.equal(again.trained()(source), answer)
    with pytest.raises(ValueError, match="trained otherwise"):
        train("paired", again, budget, path, {"task": "another"}, 0)


def test_cycle_gan_learns_to_come_back() -> None:
    source = 2 * blobs(4, (16, 16)) - 1
    torch.manual_seed(0)
    draws = [Draw((images,), STILL, 1) for images in (source, -source)]
    learner = CycleGAN(*draws, channels=8, blocks=1)
    history = [learner.step(torch.Generator().manual_seed(s), 5.0) for s in range(40)]
    cycle = [losses["cycle"] for losses in history]
    assert sum(cycle[-5:]) < 0.7 * sum(cycle[:5])


def test_a_replay_buffer_gives_back_earlier_images() -> None:
    buffer, generator = ReplayBuffer(2), torch.Generator().manual_seed(0)
    given = [buffer.exchange(torch.full((1, 1), float(i)), generator).item() for i in range(12)]
    assert given[:2] == [0, 1]
    assert len(buffer.kept) == 2
    assert any(value < i for i, value in enumerate(given))
    # The two that filled it were given and kept; one given back later is gone.
    assert len(set(given[2:])) == len(given[2:])


@pytest.mark.parametrize("deformable", [False, True])
def test_registration_moves_a_target_onto_the_source(deformable: bool) -> None:
    fixed = 2 * blobs(1, (32, 32)) - 1
    moving = -shift(fixed, (3, -2))
    moved = register(moving, fixed, deformable=deformable)
    # The contrast differs, so mutual information alone can have found this.
    before, after = (functional.mse_loss(-image, fixed).item() for image in (moving, moved))
    assert after < 0.3 * before


def test_a_bridge_between_equal_domains_returns_the_image() -> None:
    torch.manual_seed(0)
    denoiser = unconditional_denoiser({"kind": "cosine", "steps": 1000}, NETWORK).eval()
    image = 2 * blobs(1, (16, 16)) - 1
    torch.testing.assert_close(ddib(denoiser, denoiser, image, steps=100), image, atol=0.1, rtol=0)


def test_sdedit_keeps_more_of_the_source_the_less_noise_it_adds() -> None:
    torch.manual_seed(0)
    denoiser = unconditional_denoiser({"kind": "cosine", "steps": 1000}, NETWORK).eval()
    image = 2 * blobs(2, (16, 16)) - 1

    def distance(start: float) -> float:
        generator = torch.Generator().manual_seed(0)
        edited = sdedit(denoiser, image, start=start, steps=4, generator=generator)
        return functional.mse_loss(edited, image).item()

    assert distance(0.1) < distance(0.5) < distance(0.9)


@pytest.mark.parametrize("given", [{}, {"minutes": 1.0, "steps": 3}, {"steps": 0}])
def test_a_budget_is_of_one_kind(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="minutes or of steps"):
        Budget(**given)
