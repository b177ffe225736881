"""What a registration of two files reads: images, masks, labels, points, where to begin."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io.grid import ModelGrid
from plasticine.io.initial import Initial, Start, start_from
from plasticine.io.landmarks import read_landmarks
from plasticine.io.orientation import PICTURE_ORIENTATION
from plasticine.io.pair_space import PairSpace
from plasticine.io.points import Points, read_points
from plasticine.io.same_grid import read_labels, read_same_grid
from plasticine.io.volume import Volume
from plasticine.registration.landmarks import Landmarks


@dataclasses.dataclass(frozen=True)
class PairInputs:
    """All that was read of two files and those beside them.

    Attributes:
        moving: Placed in space.
        fixed: Likewise.
        space: How the two became tensors.
        source: ``(1, C, *spatial)``, the moving image, and further ones of the same voxels.
        target: Likewise, the fixed one.
        moving_mask: ``(1, 1, *spatial)`` of the moving image, 1 where it counts.
        fixed_mask: Likewise of the fixed one.
        moving_labels: ``(X, Y, Z)`` int64, along the axes of the moving file.
        fixed_labels: Likewise of the fixed one.
        moving_points: Of the moving image.
        fixed_points: Of the fixed one.
        landmarks: Of both, in the tensors' millimetres.
        start: Where to begin.
        notes: On what was read, the file named in each.
    """

    moving: Volume
    fixed: Volume
    space: PairSpace
    source: torch.Tensor
    target: torch.Tensor
    moving_mask: torch.Tensor | None = None
    fixed_mask: torch.Tensor | None = None
    moving_labels: NDArray[np.int64] | None = None
    fixed_labels: NDArray[np.int64] | None = None
    moving_points: Points | None = None
    fixed_points: Points | None = None
    landmarks: Landmarks | None = None
    start: Start = dataclasses.field(default_factory=Start)
    notes: tuple[str, ...] = ()


def read_pair(
    moving: Volume,
    fixed: Volume,
    *,
    moving_channels: Sequence[Path],
    fixed_channels: Sequence[Path],
    moving_mask: Path | None,
    fixed_mask: Path | None,
    moving_labels: Path | None,
    fixed_labels: Path | None,
    moving_points: Path | None,
    fixed_points: Path | None,
    moving_landmarks: Path | None,
    fixed_landmarks: Path | None,
    landmarks_weight: float,
    initial: Initial | None,
    device: str,
) -> PairInputs:
    """Reads all that a registration takes; arguments, and what they raise, as `register_volumes`.

    Returns:
        The images and masks on the device.
    """
    if fixed_labels is not None and moving_labels is None:
        raise ValueError("labels of the fixed image are compared with those of the moving one")
    if len(moving_channels) != len(fixed_channels):
        raise ValueError(
            f"expected as many further moving images as fixed ones, got {len(moving_channels)} and "
            f"{len(fixed_channels)}"
        )
    moving, fixed = (volume.placed(PICTURE_ORIENTATION) for volume in (moving, fixed))
    for name, volume in (("moving", moving), ("fixed", fixed)):
        _check_not_flat(name, volume)
    space = PairSpace.of(moving, fixed)
    moving_map, of_moving = _read_labels(moving_labels, moving)
    fixed_map, of_fixed = _read_labels(fixed_labels, fixed)
    start = start_from(initial, moving, fixed, space)
    if start.displacement is not None:
        start = dataclasses.replace(start, displacement=start.displacement.to(device))
    notes = [f"{volume.path}: {note}" for volume in (moving, fixed) for note in volume.notes]
    return PairInputs(
        moving=moving,
        fixed=fixed,
        space=space,
        source=_channels(moving, moving_channels, space, device, moving=True),
        target=_channels(fixed, fixed_channels, space, device, moving=False),
        moving_mask=_read_mask(moving_mask, moving, space, device, moving=True),
        fixed_mask=_read_mask(fixed_mask, fixed, space, device, moving=False),
        moving_labels=moving_map,
        fixed_labels=fixed_map,
        moving_points=None if moving_points is None else read_points(moving_points),
        fixed_points=None if fixed_points is None else read_points(fixed_points),
        landmarks=read_landmarks(
            moving_landmarks, fixed_landmarks, moving, fixed, space, landmarks_weight
        ),
        start=start,
        notes=(*notes, *of_moving, *of_fixed),
    )


def _check_not_flat(name: str, volume: Volume) -> None:
    if volume.data.min() == volume.data.max():
        raise ValueError(
            f"{volume.path}: the {name} image is {volume.data.flat[0]:g} everywhere, there is "
            "nothing to register"
        )


def _channels(
    volume: Volume, more: Sequence[Path], space: PairSpace, device: str, *, moving: bool
) -> torch.Tensor:
    """An image and those of the same voxels, ``(1, C, *spatial)``."""
    assert volume.affine is not None
    volumes = [volume]
    for path in more:
        own = read_same_grid(path, _own_grid(volume), volume.affine, PICTURE_ORIENTATION)
        _check_not_flat("moving" if moving else "fixed", own)
        volumes.append(own)
    return torch.cat([space.to_tensor(one.data, moving=moving).to(device) for one in volumes], 1)


def _own_grid(volume: Volume) -> ModelGrid:
    """The file's own axes, as what reads a file on the same voxels takes them."""
    assert volume.affine is not None
    x, y, z = volume.data.shape
    codes = "".join(nibabel.aff2axcodes(volume.affine))
    return ModelGrid.of((x, y, z), volume.affine, orientation=codes, ndim=3, spacing=None)


def _read_mask(
    path: Path | None, volume: Volume, space: PairSpace, device: str, *, moving: bool
) -> torch.Tensor | None:
    """``(1, 1, *spatial)``, of an image's dtype, 1 where it counts.

    Raises:
        ValueError: It is on another grid, or counts nothing.
    """
    if path is None:
        return None
    assert volume.affine is not None
    mask = read_same_grid(path, _own_grid(volume), volume.affine, PICTURE_ORIENTATION).data > 0
    if not mask.any():
        raise ValueError(f"{path}: the mask is empty, nothing of it is more than 0")
    return space.to_tensor(mask.astype(np.float32), moving=moving).to(device)


def _read_labels(
    path: Path | None, volume: Volume
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    if path is None:
        return None, ()
    assert volume.affine is not None
    labels, notes = read_labels(path, _own_grid(volume), volume.affine, PICTURE_ORIENTATION)
    array: NDArray[np.int64] = labels[0, 0].numpy()
    return array, notes
