"""All ordered pairs of heads, by other projects and by ours: one table.

    pip install SimpleITK antspyx picsl_greedy itk-elastix dipy convexAdam
    OMP_NUM_THREADS=1 python -m benchmarks.registration.all_pairs [METHODS ...] [--pairs 90]
    python -m benchmarks.registration.all_pairs --table

Results are kept in ``benchmarks/results/heads_registration.json`` as they come, and what is there
is not done again: a run that was ended goes on. Pairs are taken in an order that mixes the heads,
so that the first of them are a fair sample of all.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import plasticine
from benchmarks.registration import heads, peers
from plasticine.nn.validity import validity_mask
from plasticine.registration import register

RESULTS = Path(__file__).parents[1] / "results" / "heads_registration.json"
NAMES = ("012", "013", "014", "015", "033", "034", "039", "048", "049", "051")


def pairs() -> list[tuple[str, str]]:
    """All 90, shuffled the same every time."""
    found = list(itertools.permutations(NAMES, 2))
    random.Random(0).shuffle(found)
    return found


def _ours(**options: str) -> peers.Registration:
    def run(moving: heads.Head, fixed: heads.Head) -> peers.Field:
        pair = register(
            moving.image,
            fixed.image,
            torch.from_numpy(moving.affine),
            torch.from_numpy(fixed.affine),
            **options,  # type: ignore[arg-type]
        )
        voxels = pair.displacement[0].double().numpy()
        millimetres: peers.Field = np.einsum("ij,j...->i...", fixed.affine[:3, :3], voxels)
        return millimetres

    return run


METHODS: dict[str, Callable[..., peers.Field]] = {
    **peers.PEERS,
    "ours affine": _ours(transform="affine"),
    "ours fast": _ours(budget="fast"),
    "ours default": _ours(),
    "ours best": _ours(budget="best"),
}


def judge(moving: heads.Head, fixed: heads.Head, field: peers.Field) -> dict[str, float]:
    """Dice, folds by central differences and by all corners, and |φ⁻¹∘φ - id| in voxels.

    The inverse is found in the same way for every method, and judged where it is known: its root
    lies on the grid.
    """
    offset = torch.from_numpy(peers.in_moving_voxels(field, moving, fixed)).float()[None]
    still = torch.eye(3, 4)[None]
    own = np.einsum("ij,j...->i...", np.linalg.inv(fixed.affine[:3, :3]), field)
    u = torch.from_numpy(own).float()[None]
    back = plasticine.invert(u).displacement
    known = plasticine.warp(validity_mask(back).float(), u, padding="zeros") == 1
    error = (u + plasticine.warp(back, u, padding="border")).norm(dim=1, keepdim=True)
    return {
        "dice": heads.mean_dice(moving, fixed, offset, still),
        **heads.folding(u),
        "inverse_consistency": float(error[known].mean()),
    }


def _load() -> dict[str, dict[str, dict[str, float]]]:
    kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return kept


def _store(method: str, pair: str, row: dict[str, float]) -> None:
    """Read anew each time, for another run may write to it, and replaced in one step."""
    results = _load()
    results.setdefault(method, {})[pair] = row
    partial = RESULTS.with_suffix(f".{os.getpid()}")
    lines = [
        f'  "{name}": {{\n'
        + ",\n".join(f'    "{p}": {json.dumps(r)}' for p, r in sorted(rows.items()))
        + "\n  }"
        for name, rows in results.items()
    ]
    partial.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    os.replace(partial, RESULTS)


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Means over the pairs that a method has done, and how many of them another one's Dice."""
    lines = [
        "| | pairs | Dice (least) | s | pairs that fold | folds | volume turned over | SDlogJ "
        "| inverse consistency, voxels |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in METHODS:
        rows = list(results.get(name, {}).values())
        if not rows:
            continue

        def mean(key: str, rows: list[dict[str, float]] = rows) -> float:
            return statistics.mean(row[key] for row in rows)

        lines.append(
            f"| {name} | {len(rows)} | {mean('dice'):.4f} ({min(row['dice'] for row in rows):.3f}) "
            f"| {mean('seconds'):.2f} | {sum(row['volume'] > 0 for row in rows)} "
            f"| {mean('folds'):.1f} | {mean('volume'):.2f} | {mean('sdlogj'):.3f} "
            f"| {mean('inverse_consistency'):.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("methods", nargs="*", help=", ".join(METHODS))
    parser.add_argument("--pairs", type=int, default=90)
    parser.add_argument("--table", action="store_true", help="print what is there")
    arguments = parser.parse_args()
    unknown = set(arguments.methods) - METHODS.keys()
    if unknown:
        parser.error(f"no such method: {', '.join(unknown)}; there are {', '.join(METHODS)}")
    if arguments.table:
        print(table(_load()))
        return
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(exist_ok=True)
    for moving_name, fixed_name in pairs()[: arguments.pairs]:
        moving, fixed = heads.head(moving_name), heads.head(fixed_name)
        for method in arguments.methods or METHODS:
            pair = f"{moving_name}-{fixed_name}"
            if pair in _load().get(method, {}):
                continue
            start = time.process_time()
            field = METHODS[method](moving, fixed)
            seconds = time.process_time() - start
            row = {**judge(moving, fixed, field), "seconds": round(seconds, 2)}
            _store(method, pair, {name: round(value, 5) for name, value in row.items()})
            print(f"{pair} | {method} | Dice {row['dice']:.4f} | {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
