"""Dividing a batch among processes and parts, the log, and mixed precision."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import distributed_step
import numpy as np
import pytest
import torch
from command_line import ran
from recipe_file import linear_stage, small_recipe, stop_at, write_recipe

from plasticine.nn.losses import inverse_consistency
from plasticine.nn.tensor_file import load_tensors
from plasticine.training import train
from plasticine.training.data import RandomDeformation, cut_patches
from plasticine.training.draws import Draws
from plasticine.training.recipe import Recipe
from plasticine.training.stage import Stage


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A tiny recipe of batches of four, with its data in ``tmp_path``."""
    generator = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(12), np.arange(16)) * 8
    source = (ramp + generator.integers(0, 30, (6, 12, 16))).astype(np.uint8)
    np.savez(tmp_path / "images.npz", a=source, b=255 - source)
    return small_recipe(
        stage={"batch": 4, "warmup": 1, "checkpoint_every": 2},
        diffusion={"steps": 5, "patch": [8, 12]},
        registration={"steps": 4, "nearest": 3},
    )


def _rows(folder: Path, stage: str) -> list[dict[str, float]]:
    with (folder / f"{stage}.csv").open(newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _assert_same_curve(folder: Path, other: Path) -> None:
    for stage, steps in (("diffusion", 5), ("registration", 4)):
        one, two = _rows(folder, stage), _rows(other, stage)
        assert [row["step"] for row in one] == list(range(1, steps + 1))
        assert len({row["loss"] for row in one}) == steps
        for mine, yours in zip(one, two, strict=True):
            assert mine.keys() == yours.keys()
            for name in mine.keys() - {"seconds"}:
                assert yours[name] == pytest.approx(mine[name], rel=2e-4, abs=2e-5), name


def test_two_processes_and_two_parts_give_one_process_loss_curve(
    recipe: Recipe, tmp_path: Path
) -> None:
    """By torchrun, as a user would; each process in two parts, one sample at a time."""
    train(recipe, tmp_path, tmp_path / "one")
    parts = {"accumulation": 2}
    recipe = recipe.changed(diffusion=parts, registration=parts)
    write_recipe(recipe, tmp_path / "tiny.toml")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = ("-m", "plasticine", "train", "--recipe", "tiny.toml", "--data", ".", "--output")
    done = ran(sys.executable, *torchrun, *command, "two", folder=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Trained in") == 1
    assert done.stderr.count("diffusion 5/5") == 1
    _assert_same_curve(tmp_path / "one", tmp_path / "two")
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {path.name for path in (tmp_path / "two").iterdir()} == names


@pytest.fixture(scope="module")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes under DistributedDataParallel wrote what they ended with."""
    folder = tmp_path_factory.mktemp("distributed")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = sys.executable, *torchrun, distributed_step.__file__, folder
    done = ran(*command, folder=folder, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("layers", distributed_step.LAYERS)
def test_layers_and_losses_train_under_distributed_data_parallel(
    layers: str, distributed: Path
) -> None:
    """Two processes, each with half of the batch, and one with all of it: the same gradients."""
    if layers == "monai" and importlib.util.find_spec("monai") is None:
        pytest.skip("MONAI is not installed")
    first, second = (torch.load(distributed / f"{layers}-{rank}.pt") for rank in range(2))
    whole = distributed_step.train(layers, slice(None), lambda network: network)
    losses = [found.pop("loss") for found in (first, second, whole)]
    torch.testing.assert_close((losses[0] + losses[1]) / 2, losses[2])
    assert losses[0] != losses[1]
    assert whole["convolution.weight.grad"].abs().max() > 1e-3
    for found in (first, second):
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-6)


def test_parts_of_a_batch_give_its_loss_curve(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path, tmp_path / "one")
    parts = {"diffusion": {"accumulation": 2}, "registration": {"accumulation": 4}}
    train(recipe.changed(**parts), tmp_path, tmp_path / "parts")
    _assert_same_curve(tmp_path / "one", tmp_path / "parts")
    for stage in ("diffusion", "registration"):
        with pytest.raises(ValueError, match=f"{stage}: a batch of 4 cannot be divided evenly amo"):
            train(recipe.changed(**{stage: {"accumulation": 3}}), tmp_path, tmp_path / "odd")
    assert not list((tmp_path / "odd").iterdir())


def test_parts_draw_what_the_whole_draws() -> None:
    def draw(samples: slice | None) -> list[torch.Tensor]:
        draws = Draws(torch.Generator().manual_seed(5), 6, samples)
        image = torch.arange(6.0 * 9 * 11).view(6, 1, 9, 11)[draws.samples]
        image = cut_patches([image], (7, 8), draws)[0]
        moved = RandomDeformation(9, 0.1, 1.0, True, 1.0, 6)([image], draws)[0]
        return [moved, draws.integers(0, 100), draws.normal(2, 3), draws.uniform()]

    whole = draw(None)
    parts = [draw(slice(0, 2)), draw(slice(2, 3)), draw(slice(3, 6))]
    for index, value in enumerate(whole):
        assert torch.equal(torch.cat([part[index] for part in parts]), value)


def test_patches_are_drawn_from_everywhere() -> None:
    image = torch.arange(5 * 6 * 7.0).view(1, 1, 5, 6, 7).expand(200, 1, 5, 6, 7)
    draws = Draws(torch.Generator().manual_seed(0), 200)
    one, twice = cut_patches([image, 2 * image], (4, 4, 6), draws)
    assert one.shape == (200, 1, 4, 4, 6)
    assert torch.equal(twice, 2 * one)
    corners = {int(corner) for corner in one[:, 0, 0, 0, 0]}
    assert corners == {a * 42 + b * 7 + c for a in range(2) for b in range(3) for c in range(2)}


def test_inverse_consistency_is_the_mean_of_the_samples() -> None:
    """Of samples that land outside by unlike shares, too: or parts would not give the whole."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(4, 2, 8, 8, generator=generator) * torch.tensor([0.1, 1, 3, 9]).view(4, 1, 1, 1)
    parts = torch.stack([inverse_consistency(u[i : i + 1], -u[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(inverse_consistency(u, -u), parts.mean())


def test_a_resumed_log_has_every_step_once(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path, tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, tmp_path / "stopped", progress=stop_at("diffusion", 3))
    assert [row["step"] for row in _rows(tmp_path / "stopped", "diffusion")] == [1, 2, 3]
    with (tmp_path / "stopped" / "diffusion.csv").open("a", encoding="utf-8") as file:
        file.write("4,0.")  # a row that was cut off by the kill
    # The checkpoint is of step 2; how a batch is divided may change.
    recipe = recipe.changed(diffusion={"accumulation": 1})
    train(recipe, tmp_path, tmp_path / "stopped", resume=True)
    for stage in ("diffusion", "registration"):
        whole, resumed = (_rows(tmp_path / name, stage) for name in ("whole", "stopped"))
        for row, again in zip(whole, resumed, strict=True):
            assert again.pop("seconds") > 0
            del row["seconds"]
            assert row == again
    assert set(whole[0]) == {
        "step", "loss", "single.mutual_information", "single.structure", "single.jacobian",
        "learning_rate",
    }  # fmt: skip


def test_another_log_in_the_way_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path, tmp_path / "run")
    (tmp_path / "run" / "diffusion.checkpoint.safetensors").unlink()
    log = tmp_path / "run" / "registration.csv"
    log.write_text("patient,age\n1,60\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"registration\.csv: not a training log"):
        train(recipe, tmp_path, tmp_path / "run", resume=True)
    assert log.read_text(encoding="utf-8").startswith("patient")


def test_tensorboard(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RuntimeError, match=r"pip install .plasticine\[tensorboard\]"):
        train(recipe, tmp_path, tmp_path / "without", tensorboard=True)
    monkeypatch.undo()
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(recipe, tmp_path, tmp_path / "with", tensorboard=True)
    events = reading.EventAccumulator(str(tmp_path / "with" / "tensorboard" / "diffusion"))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("loss")]
    rows = _rows(tmp_path / "with", "diffusion")
    assert logged == [(row["step"], pytest.approx(row["loss"])) for row in rows]


def _stage(folder: Path, precision: str, calls: int = 0) -> Stage:
    """At the start the scaled gradient overflows float32, as small scales do in float16."""
    factors = iter([1e36, 1e36, *[1.0] * 8][calls:])

    def loss(network: torch.nn.Module, draws: Draws) -> torch.Tensor:
        x = draws.normal(3)
        return (network(x) - x.sum(1, keepdim=True)).square().mean() * next(factors)

    return linear_stage(folder, loss, steps=8, checkpoint_every=4, precision=precision)


def test_float16_scales_its_loss_and_resumes_with_the_scale(tmp_path: Path) -> None:
    """A step whose gradient overflows is left out and the scale lowered, and kept."""
    whole = _stage(tmp_path / "whole", "float16").run()
    scale = load_tensors(tmp_path / "whole" / "linear.checkpoint.safetensors")[1]["scaler"]
    assert scale["scale"] == 65536 / 4

    with pytest.raises(KeyboardInterrupt):
        _stage(tmp_path / "stopped", "float16").run(stop_at("linear", 5))
    resumed = _stage(tmp_path / "stopped", "float16", calls=4)
    resumed.load()
    assert resumed.step == 4
    assert torch.equal(resumed.run().weight, whole.weight)
    with pytest.raises(ValueError, match="should be 'float32', 'bfloat16' or 'float16'"):
        _stage(tmp_path, "half")
