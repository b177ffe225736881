"""How exact each way to the exponential is, and what it costs: the tables of docs/exponential.md.

    python -m benchmarks.exponential_accuracy            # all of it, about two minutes on two cores
    python -m benchmarks.exponential_accuracy --limits   # also where steps="auto" must switch

The measure is the distance, in voxels, to 512 steps of the classical Runge-Kutta method along each
voxel's path through the same field, interpolated linearly and continued in the same way.
Accuracy is computed in float64, times are of float32.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

import plasticine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "exponential-accuracy.json"
PAGE = ROOT / "docs" / "exponential.md"

STEPS = {"euler": range(2, 9), "midpoint": range(5), "rk4": range(4)}
FINE_STEPS = 512
DEPTHS = (0, 8, 16)  # voxels from the edge, beyond which the paddings are compared
TIMED_SIZE = (128, 128, 128)


@dataclass(frozen=True)
class Case:
    """A smooth random velocity field: white noise, smoothed by a Gaussian."""

    size: tuple[int, ...]
    peak: float  # the greatest speed, voxels
    sigma: float = 8.0  # of the Gaussian, voxels
    seed: int = 0

    @property
    def name(self) -> str:
        size = " x ".join(str(n) for n in self.size)
        return f"{size}, sigma {self.sigma:g}, speeds up to {self.peak:g} voxels"

    def velocity(self) -> Tensor:
        """The field, ``(1, d, *size)``, float64."""
        generator = torch.Generator().manual_seed(self.seed)
        ndim = len(self.size)
        axes = tuple(range(2, 2 + ndim))
        noise = torch.randn(1, ndim, *self.size, generator=generator, dtype=torch.float64)
        spectrum = torch.fft.fftn(noise, dim=axes)
        for axis, n in zip(axes, self.size, strict=True):
            frequency = torch.fft.fftfreq(n, dtype=torch.float64)
            window = torch.exp(-2 * (math.pi * frequency * self.sigma) ** 2)
            spectrum = spectrum * window.view([-1 if i == axis else 1 for i in range(2 + ndim)])
        smooth = torch.fft.ifftn(spectrum, dim=axes).real
        return smooth * (self.peak / torch.linalg.vector_norm(smooth, dim=1).max())


CASES = (
    Case((128, 128), 19.0),
    Case((64, 64, 64), 8.0),
    Case((64, 64, 64), 2.0),
)


def fine_flow(velocity: Tensor, advance: Callable[[], None], steps: int = FINE_STEPS) -> Tensor:
    """The displacement after unit time, by many small steps of the classical Runge-Kutta method."""

    def at(displacement: Tensor) -> Tensor:
        return plasticine.warp(velocity, displacement)

    h = 1 / steps
    u = torch.zeros_like(velocity)
    for _ in range(steps):
        k1 = at(u)
        k2 = at(u + h / 2 * k1)
        k3 = at(u + h / 2 * k2)
        k4 = at(u + h * k3)
        u = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        advance()
    return u


def errors(u: Tensor, exact: Tensor) -> dict[str, float]:
    """Mean, 99th percentile and maximum of the distance, in voxels."""
    distance = torch.linalg.vector_norm(u - exact, dim=1).flatten().sort().values
    return {
        "mean": distance.mean().item(),
        "p99": distance[int(0.99 * (len(distance) - 1))].item(),
        "max": distance[-1].item(),
    }


def combinations() -> Iterator[tuple[str, int]]:
    """Every method with every number of squarings."""
    for method, counts in STEPS.items():
        for steps in counts:
            yield method, steps


def measure_accuracy(progress: Progress) -> list[dict[str, Any]]:
    """The errors of every combination on every case."""
    found = []
    for case in CASES:
        task = progress.add_task(case.name, total=FINE_STEPS)
        velocity = case.velocity()
        exact = fine_flow(velocity, lambda task=task: progress.advance(task))
        rows = [
            {"method": method, "steps": steps}
            | errors(plasticine.exponential(velocity, method=method, steps=steps), exact)
            for method, steps in combinations()
        ]
        automatic = {method: chosen_steps(velocity, method) for method in STEPS}
        found.append({"case": case.name, "errors": rows, "automatic": automatic})
    return found


def measure_padding() -> list[dict[str, Any]]:
    """How far Euler's 7 squarings with zeros outside, which is MONAI's, are from those with border.

    And how far ours with zeros are from MONAI's own, None where that is not installed.
    """
    found = []
    for case in CASES:
        velocity = case.velocity()
        zeros = plasticine.exponential(velocity, padding="zeros")
        distance = torch.linalg.vector_norm(plasticine.exponential(velocity) - zeros, dim=1)[0]
        inside = {
            depth: distance[tuple(slice(depth, n - depth) for n in case.size)].max().item()
            for depth in DEPTHS
        }
        monai = None
        if importlib.util.find_spec("monai") is not None:
            from monai.networks.blocks import DVF2DDF

            monai = (DVF2DDF()(velocity) - zeros).abs().max().item()
        share = (distance > 0.1).double().mean().item()
        found.append({"case": case.name, "inside": inside, "share": share, "monai": monai})
    return found


def chosen_steps(velocity: Tensor, method: str) -> int:
    """What steps="auto" stands for."""
    from plasticine.ops._exponential_steps import steps_for

    return steps_for(velocity, "auto", method, "auto")


def measure_times(progress: Progress, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of a forward, and of a forward and backward pass; medians, in turn."""
    velocity = Case(TIMED_SIZE, 8.0).velocity().float().requires_grad_()
    grad = torch.randn(velocity.shape, generator=torch.Generator().manual_seed(1))
    seconds: dict[tuple[str, int], tuple[list[float], list[float]]] = {
        combination: ([], []) for combination in combinations()
    }
    task = progress.add_task("times", total=(rounds + 1) * len(seconds))
    for repetition in range(rounds + 1):
        for (method, steps), (forward, both) in seconds.items():
            start = time.perf_counter()
            with torch.no_grad():
                plasticine.exponential(velocity, method=method, steps=steps)
            middle = time.perf_counter()
            u = plasticine.exponential(velocity, method=method, steps=steps)
            torch.autograd.grad(u, velocity, grad)
            end = time.perf_counter()
            del u
            if repetition > 0:  # the first warms up
                forward.append(middle - start)
                both.append(end - middle)
            progress.advance(task)
    return [
        {
            "method": method,
            "steps": steps,
            "forward_ms": 1e3 * statistics.median(forward),
            "forward_backward_ms": 1e3 * statistics.median(both),
        }
        for (method, steps), (forward, both) in seconds.items()
    ]


def measure_limits(progress: Progress) -> dict[str, list[float]]:
    """For 0, 1, 2, ... squarings, the greatest speed up to which more are of no use.

    That is where the mean error is below 0.01 voxel and the 99th percentile below 0.05, or both
    within a quarter of the least that any number of squarings gives.
    """
    speeds = [2 ** (k / 4) for k in range(-12, 21)]
    sufficient: dict[str, list[int]] = {method: [] for method in STEPS}
    task = progress.add_task("limits", total=len(speeds))
    for speed in speeds:
        needed = dict.fromkeys(STEPS, 0)
        for case in (Case((128, 128), speed), Case((48, 48, 48), speed)):
            velocity = case.velocity()
            exact = fine_flow(velocity, lambda: None, 128)
            for method in STEPS:
                counts = range(11 if method == "euler" else 7)
                rows = [
                    errors(plasticine.exponential(velocity, method=method, steps=n), exact)
                    for n in counts
                ]
                needed[method] = max(needed[method], fewest(rows))
        for method, steps in needed.items():
            sufficient[method].append(steps)
        progress.advance(task)
    limits: dict[str, list[float]] = {}
    for method, needed_at in sufficient.items():
        limits[method] = []
        for steps in range(max(needed_at)):
            fits = [speed for speed, need in zip(speeds, needed_at, strict=True) if need <= steps]
            limits[method].append(round(max(fits, default=0.0), 3))
    return limits


def fewest(rows: Sequence[dict[str, float]]) -> int:
    """The fewest squarings that are as good as any."""
    allowed = {
        name: max(floor, 1.25 * min(row[name] for row in rows))
        for name, floor in (("mean", 0.01), ("p99", 0.05))
    }
    return next(
        steps
        for steps, row in enumerate(rows)
        if all(row[name] <= bound for name, bound in allowed.items())
    )


def equally_accurate(rows: Sequence[dict[str, Any]], method: str) -> int | None:
    """The fewest squarings of a method whose every error is at most that of Euler with 7."""
    names = ("mean", "p99", "max")
    usual = next(row for row in rows if row["method"] == "euler" and row["steps"] == 7)
    for row in rows:
        if row["method"] == method and all(row[name] <= usual[name] for name in names):
            return row["steps"]
    return None


def table(record: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    times = {(row["method"], row["steps"]): row for row in record["times"]}
    parts = []
    for case in record["accuracy"]:
        lines = [
            f"**{case['case']}**",
            "",
            "| method | squarings | mean | 99 % | maximum | forward, ms | forward + backward, ms |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in case["errors"]:
            timed = times[row["method"], row["steps"]]
            mark = " (auto)" if case["automatic"][row["method"]] == row["steps"] else ""
            lines.append(
                f"| {row['method']} | {row['steps']}{mark} | {row['mean']:.4f} | {row['p99']:.4f} "
                f"| {row['max']:.3f} | {timed['forward_ms']:.0f} "
                f"| {timed['forward_backward_ms']:.0f} |"
            )
        equal = ", ".join(
            f"{method} {equally_accurate(case['errors'], method)}" for method in ("midpoint", "rk4")
        )
        lines += ["", f"Fewest squarings at least as exact as Euler's 7 in all three: {equal}."]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def padding_table(record: dict[str, Any]) -> str:
    """How far the paddings are apart as Markdown, and how far MONAI is from ours."""
    depths = [f"{depth} voxels in" if depth else "largest" for depth in DEPTHS]
    lines = [
        f"| zeros against border, voxels | {' | '.join(depths)} | voxels that differ by 0.1 |",
        "|---|" + "---|" * (len(DEPTHS) + 1),
    ]
    for row in record["padding"]:
        inside = " | ".join(f"{value:.2g}" for value in row["inside"].values())
        lines.append(f"| {row['case']} | {inside} | {row['share']:.1%} |")
    monai = [row["monai"] for row in record["padding"]]
    if None not in monai:
        lines += [
            "",
            f'`padding="zeros"` differs from `DVF2DDF()` of MONAI {record["versions"]["monai"]} by '
            f"{max(monai):.0e} voxels at most, in float64.",
        ]
    return "\n".join(lines)


def write_page(record: dict[str, Any]) -> None:
    """Puts the tables between the marks of the page."""
    begin, end = "<!-- measured -->", "<!-- end -->"
    before, rest = PAGE.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    note = (
        f"Measured by `benchmarks/exponential_accuracy.py` on {record['machine']['cpu']}, "
        f"{record['machine']['threads']} threads, {record['machine']['simd']}; times at "
        f"{' x '.join(str(n) for n in TIMED_SIZE)}, float32."
    )
    text = f"{before}{begin}\n{note}\n\n{table(record)}\n\n{padding_table(record)}\n{end}{after}"
    PAGE.write_text(text, encoding="utf-8")


def version(package: str) -> str | None:
    """Of an installed package; None where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "an unknown processor"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "an unknown processor"


def main() -> None:
    """Measures, writes the JSON and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limits", action="store_true", help='also the switches of steps="auto"')
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    parser.add_argument(
        "--keep-times", action="store_true", help="take the times of the JSON that is there"
    )
    arguments = parser.parse_args()
    information = plasticine.info()
    record: dict[str, Any] = {
        "machine": {
            "cpu": processor(),
            "threads": information["threads"],
            "simd": information["simd"],
        },
        "versions": information["versions"] | {"monai": version("monai")},
        "padding": measure_padding(),
    }
    with Progress() as progress:
        if arguments.keep_times:
            # With the machine that they are of; the rest does not depend on one.
            kept = json.loads(RESULTS.read_text(encoding="utf-8"))
            record |= {name: kept[name] for name in ("machine", "times")}
        else:
            record["times"] = measure_times(progress, arguments.rounds)
        record["accuracy"] = measure_accuracy(progress)
        if arguments.limits:
            record["limits"] = measure_limits(progress)
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    write_page(record)
    print(table(record))
    if arguments.limits:
        print(json.dumps(record["limits"], indent=2))


if __name__ == "__main__":
    main()
