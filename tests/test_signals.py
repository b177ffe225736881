"""Requests to end a command: what it had begun is removed, and a training goes on later."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Run, ran
from recipe_file import small_recipe, write_recipe

from plasticine.report import RESULT_FILES
from plasticine.training import train
from plasticine.training.recipe import Recipe

PATIENCE = 120.0
Started = subprocess.Popen[str]


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Started]:
    """Starts ``python -m plasticine``, and ends at the end what still runs."""
    processes: list[Started] = []

    def call(*arguments: str | Path, prefix: tuple[str, ...] = ()) -> Started:
        command = [*prefix, sys.executable, "-m", "plasticine", *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        processes.append(
            subprocess.Popen(
                command,
                cwd=tmp_path,  # not the checkout
                env=environment,
                encoding="utf-8",
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        return processes[-1]

    yield call
    for process in processes:
        process.kill()
        process.communicate()


def _when(process: Started, happened: Callable[[], object]) -> None:
    """Waits until something has happened that a running process does."""
    until = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)


def _endless(head: Path, model_file: Path, out: Path) -> list[str | Path]:
    return ["translate", head, "--model", model_file, "--output", out, "--samples", "1000000"]


def test_a_translation_that_is_asked_to_end_leaves_nothing(
    start: Callable[..., Started], head: Path, model_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    process = start(*_endless(head, model_file, out))
    _when(process, lambda: list(out.glob(".plasticine-*")))
    time.sleep(0.5)  # into the work, and not only at its beginning
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)  # as a service manager that sends both
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode in (128 + signal.SIGHUP, 128 + signal.SIGTERM)
    assert err == f"ended by {signal.Signals(process.returncode - 128).name}\n"
    assert not out.parent.exists()


# A child for each request and function behind which it is made, from one start of Python.
SWALLOWED = """
import importlib, json, os, signal, sys
from plasticine import cli

class Callback:
    def __del__(self):
        signal.raise_signal(asked)

def then_asked(*arguments, **options):
    result = function(*arguments, **options)
    Callback()
    return result

statuses = {}
for path in ("plasticine.report.write_results", "plasticine.io.read_volume",
             "plasticine.report.print_results"):
    module, name = path.rsplit(".", 1)
    module = importlib.import_module(module)
    for asked in (signal.SIGINT, signal.SIGTERM):
        case = f"{name}-{asked.name}"
        if (child := os.fork()) == 0:
            for stream, file in ((1, os.devnull), (2, f"{case}.stderr")):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
            function = getattr(module, name)
            setattr(module, name, then_asked)
            sys.argv += ["--output", case]
            cli.main()
        statuses[case] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(statuses))
"""


def test_a_request_whose_exception_python_swallows_is_no_success(
    head: Path, model_file: Path, tmp_path: Path
) -> None:
    translation = ("translate", head, "--model", model_file, "--steps", "1")
    command = (sys.executable, "-c", SWALLOWED, *translation)
    done = ran(*command, folder=tmp_path, timeout=3 * PATIENCE, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    statuses = json.loads(done.stdout)
    assert len(statuses) == 6
    for case, status in statuses.items():
        errors = (tmp_path / f"{case}.stderr").read_text()
        assert "Exception ignored" in errors
        name, asked = case.split("-")
        assert status == 128 + signal.Signals[asked], errors
        ended = "interrupted" if asked == "SIGINT" else f"ended by {asked}"
        assert errors.endswith(f"{ended}\n")
        # What there is to write is written before the result is printed.
        assert (tmp_path / case).exists() is (name == "print_results")


def test_what_a_killed_translation_leaves_the_next_one_clears(
    start: Callable[..., Started], run: Run, head: Path, model_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(*_endless(head, model_file, out))
    _when(process, lambda: list(out.glob(".plasticine-*")))
    again = ("translate", head, "--model", model_file, "--output", out, "--steps", "1")
    assert run(*again)[0] == 0
    (theirs,) = {path.name for path in out.iterdir()} - {*RESULT_FILES}  # it is at work
    assert process.poll() is None
    process.kill()
    process.wait()
    assert (out / theirs).exists()
    assert run(*again)[0] == 0
    assert {path.name for path in out.iterdir()} == {*RESULT_FILES}


def test_a_command_under_nohup_goes_on(
    start: Callable[..., Started], head: Path, model_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ignoring = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    process = start(*_endless(head, model_file, out), prefix=ignoring)
    _when(process, lambda: list(out.glob(".plasticine-*")))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
    assert not out.exists()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the commands have it: torch sums in another order with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A tiny recipe of many steps, with its data in ``tmp_path``."""
    images = np.random.default_rng(0).integers(0, 255, (4, 12, 16)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", a=images, b=255 - images)
    return small_recipe(
        name="tiny",
        stage={"warmup": 1},
        diffusion={"steps": 40, "checkpoint_every": 4},
        registration={"steps": 1, "checkpoint_every": 1},
    )


def test_a_training_that_is_ended_goes_on_to_the_same_bytes(
    start: Callable[..., Started], recipe: Recipe, tmp_path: Path, one_thread: None
) -> None:
    """Asked to end, then killed."""
    out, file = tmp_path / "stopped", write_recipe(recipe, tmp_path / "tiny.toml")
    command = ["train", "--recipe", file, "--data", tmp_path, "--output", out]
    process = start(*command)
    _when(process, (out / "diffusion.checkpoint.safetensors").exists)
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
    assert {path.name for path in out.iterdir()} == {
        "diffusion.csv", "diffusion.checkpoint.safetensors"
    }  # fmt: skip
    before = (out / "diffusion.checkpoint.safetensors").read_bytes()
    process = start(*command, "--resume")
    _when(process, lambda: (out / "diffusion.checkpoint.safetensors").read_bytes() != before)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "tiny.safetensors").exists()
    resumed = train(recipe, tmp_path, out, resume=True)
    whole = train(recipe, tmp_path, tmp_path / "whole")
    assert resumed.read_bytes() == whole.read_bytes()
    names = {path.name for path in whole.parent.iterdir()}
    assert {path.name for path in out.iterdir()} == names
