"""Draws every structure map of real images, to see what each keeps and what it lets go.

    python -m benchmarks.structure_maps

writes ``docs/structure_maps.png``. Needs the data folder; takes seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.translation.record import add_data_argument
from plasticine import structure
from plasticine.io import model_images, read_volume
from plasticine.structure import BackTranslation
from plasticine.translation import Translator

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "structure_maps.png"
MODEL = "brain-t1-t2"
"""The shipped model whose back-translation is shown."""
CLUSTERS = 6
SLICE_OF_HEART = 60


@dataclass(frozen=True)
class Example:
    """A slice to show.

    Attributes:
        name: its title.
        image: (1, 1, rows, columns) within [-1, 1].
        labels: (1, 1, rows, columns) int64, its label map; None without one.
        domain: "source" or "target" of the shipped model whose back-translation is shown; None
            where no shipped model knows such images.
    """

    name: str
    image: Tensor
    labels: Tensor | None = None
    domain: str | None = None


def examples(data: Path) -> list[Example]:
    """T1 and T2 of one slice of one patient, CT, OCT and cine MR."""

    def scaled(array: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(array).float()[None, None] / 255 * 2 - 1

    with np.load(data / "brain_t1_t2_flair" / "slices_2mm_112px.npz") as archive:
        brain = {name: scaled(archive[f"{name}_07"][48][8:104, 16:96]) for name in ("T1", "T2")}
    with np.load(data / "cardiac_cine" / "slices_128px.npz") as archive:
        image, mask = (
            archive[name][SLICE_OF_HEART][16:112, 24:104] for name in ("normal", "normal_lv_mask")
        )
        heart = Example("cine MR", scaled(image), torch.from_numpy(mask).long()[None, None])
    body = model_images(
        read_volume(data / "abdomen_mr_ct" / "example_ct.nii.gz"),
        {"ndim": 2, "normalisation": {"low": -160, "high": 240}},
    )
    organs = body.labels(data / "abdomen_mr_ct" / "example_seg_fast_force_split.nii.gz")[0]
    eye = model_images(
        read_volume(data / "oct_layers" / "im0100_img.png"),
        {"ndim": 2, "normalisation": {"percentile": 99.9, "of": "positive"}},
    )
    layers = eye.labels(data / "oct_layers" / "im0100_mask.png")[0]
    return [
        Example("T1-weighted MR", brain["T1"], domain="source"),
        Example("T2-weighted MR", brain["T2"], domain="target"),
        Example("CT", 2 * body.images[56:57] - 1, organs[56:57]),
        Example("OCT", 2 * eye.images[:, :, 280:520] - 1, layers[:, :, 280:520]),
        heart,
    ]


def cluster_picture(channels: Tensor) -> NDArray[np.float32]:
    """(K, rows, columns) one-hot to grey levels, dark to bright."""
    return (channels.argmax(0) / (len(channels) - 1)).numpy()


def descriptor_colours(descriptors: list[Tensor]) -> list[NDArray[np.float32]]:
    """Descriptors (K, rows, columns) as colours: their first three principal components.

    One basis for all of them, so that a colour is the same descriptor in every picture.
    """
    rows = torch.cat([channels.flatten(1).T for channels in descriptors])
    mean = rows.mean(0)
    basis = torch.linalg.svd((rows - mean).T @ (rows - mean)).U[:, :3]
    parts = [(channels.movedim(0, 2) - mean) @ basis for channels in descriptors]
    spread = torch.cat([part.flatten(0, 1) for part in parts]).std(0)
    return [(0.5 + part / (4 * spread)).clamp(0, 1).numpy() for part in parts]


def back_translations(shown: list[Example]) -> list[NDArray[np.float32] | None]:
    """The back-translation of the examples that the shipped model knows the domain of."""
    learned = Translator.load(MODEL).model.structure
    if not isinstance(learned, BackTranslation):
        raise TypeError(f"expected a model of back-translation; {MODEL} has {type(learned)}")
    return [
        None if one.domain is None else learned(one.image, one.domain)[0, 0].numpy()
        for one in shown
    ]


def label_picture(labels: Tensor) -> NDArray[np.float32]:
    """A label map (rows, columns), its values evenly spaced within [0, 1]."""
    values, index = labels.unique(return_inverse=True)
    return (index / max(1, len(values) - 1)).numpy()


def draw(shown: list[Example], path: Path) -> None:
    """A row for each example, a column for each map."""
    maps: dict[str, Callable[[Tensor], Tensor]] = {
        "kmeans": structure.create("kmeans", 2, clusters=CLUSTERS),
        "multi-otsu": structure.create("multi-otsu", 2, clusters=CLUSTERS),
        "contour": structure.create("contour", 2),
        "mind": structure.create("mind", 2),
    }
    channels = {name: [map_(one.image)[0] for one in shown] for name, map_ in maps.items()}
    columns: dict[str, list[NDArray[np.float32] | None]] = {
        "image": [one.image[0, 0].numpy() for one in shown],
        f"kmeans, {CLUSTERS} clusters": [cluster_picture(part) for part in channels["kmeans"]],
        f"multi-otsu, {CLUSTERS}": [cluster_picture(part) for part in channels["multi-otsu"]],
        "contour: edge strength": [part[0].numpy() for part in channels["contour"]],
        "contour: distance": [part[-1].numpy() for part in channels["contour"]],
        "mind, main components": list(descriptor_colours(channels["mind"])),
        "back-translation": back_translations(shown),
        "labels": [
            None if one.labels is None else label_picture(one.labels[0, 0]) for one in shown
        ],
    }
    figure = Figure(figsize=(1.9 * len(columns), 1.95 * len(shown)), layout="tight")
    axes = figure.subplots(len(shown), len(columns))
    for column, (title, pictures) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize=9)
        for row, picture in enumerate(pictures):
            place = axes[row, column]
            place.set_xticks([])
            place.set_yticks([])
            if picture is None:
                place.text(0.5, 0.5, "none", ha="center", va="center", fontsize=9)
                place.set_aspect(1.2)
                continue
            colours = "nipy_spectral" if title == "labels" else "gray"
            low = -1 if title == "image" else 0
            place.imshow(picture, cmap=colours, vmin=low, vmax=1, interpolation="nearest")
    for row, one in enumerate(shown):
        axes[row, 0].set_ylabel(one.name, fontsize=9)
    figure.savefig(path, dpi=80)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_argument(parser)
    parser.add_argument("--output", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    draw(examples(arguments.data), arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()
