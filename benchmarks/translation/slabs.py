"""What slabs change: seams, time and memory of a volume denoised in slabs, against the whole.

    python -m benchmarks.translation.slabs VOLUME.nii.gz --model MODEL.safetensors --slab 48

The jump between two neighbouring planes is the mean absolute difference of their intensities. It
is given as a multiple of the jump between the same planes of the volume denoised whole, apart for
planes that slabs share ("seams") and the others ("within"). Slabs that share nothing are the
control. With a model of slices, the planes are rows or columns, and the slices are a batch. Writes
``benchmarks/results/slabs.json``.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import HOW, peak_bytes
from benchmarks.translation.record import machine, versions, write
from plasticine.diffusion import SlabDenoiser
from plasticine.io import model_images, read_volume
from plasticine.translation import Translator

RESULT = Path(__file__).parents[1] / "results" / "slabs.json"


def jumps(volume: Tensor, axis: int) -> Tensor:
    """Mean absolute difference of each plane to the next along ``axis``."""
    others = [other for other in range(volume.ndim) if other != axis]
    return volume.diff(dim=axis).abs().mean(others)


def seams(whole: Tensor, in_slabs: Tensor, slabs: list[tuple[int, int]]) -> dict[str, float]:
    """Jumps as multiples of the whole volume's, and how far the volumes are apart."""
    axis = 2 + max(range(whole.ndim - 2), key=whole.shape[2:].__getitem__)
    ratio = jumps(in_slabs, axis) / jumps(whole, axis)
    shared = torch.zeros(len(ratio), dtype=torch.bool)
    for before, after in itertools.pairwise(slabs):
        shared[after[0] - 1 : before[1]] = True
    body = jumps(whole, axis) > 0.1 * jumps(whole, axis).max()  # planes beside the body are noise
    return {
        "seams_mean": ratio[shared & body].mean().item(),
        "seams_largest": ratio[shared & body].max().item(),
        "within_mean": ratio[~shared & body].mean().item(),
        "within_largest": ratio[~shared & body].max().item(),
        "difference": (whole - in_slabs).abs().mean().item(),
    }


def measure(
    translator: Translator, images: Tensor, slab: int, overlaps: list[int], steps: int
) -> dict[str, Any]:
    """Figures of the whole, and of slabs with each overlap."""

    def run(**cut: int) -> tuple[Tensor, dict[str, Any]]:
        kept: list[Tensor] = []

        def translate() -> None:
            trace = translator.translate(images, deform=False, steps=steps, **cut)
            kept.append(trace.translated)

        peak = peak_bytes(translate, torch.device("cpu"))
        began = time.process_time()
        translate()
        seconds = time.process_time() - began
        return kept[0], {"processor_seconds": seconds, "peak_bytes": peak}

    whole, figures = run(slab=0)
    found: dict[str, Any] = {"whole": figures}
    print(f"whole: {figures}", flush=True)
    for overlap in overlaps:
        in_slabs, figures = run(slab=slab, overlap=overlap)
        cut = SlabDenoiser(translator.model.denoiser, slab, overlap).slabs(max(images.shape[2:]))
        figures |= {"slabs": cut} | seams(whole, in_slabs, cut)
        found[f"slabs of {slab}, overlap {overlap}"] = figures
        print(f"overlap {overlap}: {figures}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("volume", type=Path)
    parser.add_argument("--model", required=True, help="shipped name or file")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--slab", type=int, required=True)
    parser.add_argument("--overlaps", type=int, nargs="+", default=[0, 8, 16])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--every", type=int, default=1, help="of a model of slices, every n-th")
    arguments = parser.parse_args()
    translator = Translator.load(arguments.model)
    images = model_images(read_volume(arguments.volume), translator.card).images
    images = images[arguments.every // 2 :: arguments.every]
    record = {
        "model": translator.card["name"],
        "volume": arguments.volume.name,
        "images": list(images.shape),
        "steps": arguments.steps,
        "memory": HOW["cpu"],
        "machine": machine(),
        "versions": versions(),
        "figures": measure(translator, images, arguments.slab, arguments.overlaps, arguments.steps),
    }
    write(arguments.output, record)


if __name__ == "__main__":
    main()
