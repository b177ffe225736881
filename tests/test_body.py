"""Where the body is, and where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from plasticine.nn.body import exterior


@pytest.mark.parametrize("shape", [(3, 1, 17, 22), (2, 1, 7, 9, 8), (1, 1, 1, 6), (1, 1, 5, 1, 4)])
def test_exterior_is_what_filling_the_holes_leaves(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    found = exterior(images, 0.45).numpy()
    filled = [ndimage.binary_fill_holes(image[0] > 0.45) for image in images.numpy()]
    np.testing.assert_array_equal(found, ~np.stack(filled)[:, None])


def test_exterior_goes_round_corners() -> None:
    rows = [
        "########.",
        "#......#.",
        "#.####.#.",
        "#.#..#.#.",
        "#.####.#.",
        "..####..#",
        "#########",
    ]
    images = torch.tensor([[float(c == "#") for c in row] for row in rows])[None, None]
    found = exterior(images, 0.5)[0, 0]
    assert found[1, 4]  # through the opening of row 5, up and along
    assert not found[3, 3]  # closed all around
    assert found[0, 8]
