"""Translates T1 slices to T2, and says for pixels of the result where they came from."""

import argparse
import tempfile
from pathlib import Path

import nibabel
import torch

from plasticine import Translator
from plasticine.demo import load_template_slices
from plasticine.io import read_volume, translate_volume, write_image


def main() -> None:
    """Translates, traces, and reads the traced field as any other tool would."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("volume", nargs="?", help="NIfTI of skull-stripped T1 (default: MNI152)")
    parser.add_argument("--steps", type=int, help="of the sampler")
    options = parser.parse_args()
    volume = read_volume(Path(options.volume)) if options.volume else load_template_slices()
    result = translate_volume(Translator.load("brain-t1-t2"), volume, steps=options.steps)

    # The trace on the model's grid: where three pixels of every slice were in the source.
    trace = result.trace
    middle = torch.tensor(trace.displacement.shape[2:]) / 2
    points = (middle + torch.tensor([[0.0, 0.0], [15.0, 0.0], [0.0, -15.0]]))[None]
    came_from = trace.to_source(points.expand(len(trace.displacement), -1, -1))
    for point, source in zip(points[0], came_from[0], strict=True):
        print(
            f"pixel {point.tolist()} of slice 0 came from {[round(x, 2) for x in source.tolist()]}"
        )
    there_and_back = trace.to_target(came_from) - points
    print(f"there and back: within {there_and_back.abs().max():.3f} pixels")

    # The proof, on the grid of the file: x∘φ holds only the source's own values.
    warped = result.warped_source
    assert warped.min() >= result.source.min()
    assert warped.max() <= result.source.max()
    print(f"{int(result.folding.folds.sum())} folds in {result.jacobian.numel()} pixels")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "jacobian.nii.gz"
        write_image(file, result.grid.to_file(result.jacobian), result.affine, description="det")
        print("jacobian", nibabel.load(file).shape)


if __name__ == "__main__":
    main()
