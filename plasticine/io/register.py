"""Registering two volumes, each on the grid of its own file."""

from __future__ import annotations

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io.grid import ModelGrid
from plasticine.io.orientation import DEFAULT_ORIENTATION
from plasticine.io.pair_space import PairSpace
from plasticine.io.same_grid import read_labels, read_same_grid
from plasticine.io.volume import Volume
from plasticine.nn.labels import move_labels
from plasticine.nn.modes import plain_modes
from plasticine.ops import mutual_information
from plasticine.ops.lncc import lncc
from plasticine.ops.warp import warp
from plasticine.registration.displaced import AffineDisplacement
from plasticine.registration.pair import PairRegistration, register, total_displacement


@dataclasses.dataclass(frozen=True)
class VolumeRegistration:
    """A registration brought back to the grids of the two files.

    Arrays have the axes of their file: those of the fixed image if nothing else is said.

    Attributes:
        moving: What was moved, placed in space.
        fixed: What it was registered to, likewise.
        space: How the volumes became tensors.
        pair: The registration of the tensors.
        before: ``(X, Y, Z)``, the moving image as the two headers place it.
        warped: ``(X, Y, Z)``, the moving image at φ, in its own intensities; its least value where
            φ lands outside of it.
        valid: ``(X, Y, Z)`` bool, whether φ lands inside the moving image.
        displacement: ``(3, X, Y, Z)``, φ - id with the affine map in it, in voxels of the fixed
            image: `write_displacement` takes it with the fixed image's affine.
        inverse_displacement: ``(3, X, Y, Z)`` of the moving image and in its voxels, φ⁻¹ - id.
        jacobian: ``(X, Y, Z)``, det ∇φ, the affine map's included; central differences.
        affine: ``(4, 4)``, fixed to moving millimetres (RAS+), what the affine stage found.
        similarity: Of the fixed image and the moving one "before" (as the headers place it), after
            the "affine" stage and "after" all: mean squared "lncc" in windows of 5 voxels and
            "mutual_information" in nats, over the fixed mask's voxels, or all.
        arguments: What was asked for.
        seconds: How long the registration took, without reading and writing.
        labels: ``(X, Y, Z)`` int64, the moving image's labels at φ, nearest; 0 outside of it.
        fixed_labels: ``(X, Y, Z)`` int64, those of the fixed image.
        notes: On what was read, the file named in each.
    """

    moving: Volume
    fixed: Volume
    space: PairSpace
    pair: PairRegistration
    before: NDArray[np.float32]
    warped: NDArray[np.float32]
    valid: NDArray[np.bool_]
    displacement: NDArray[np.float32]
    inverse_displacement: NDArray[np.float32]
    jacobian: NDArray[np.float32]
    affine: NDArray[np.float64]
    similarity: dict[str, dict[str, float]]
    arguments: dict[str, Any]
    seconds: float
    labels: NDArray[np.int64] | None = None
    fixed_labels: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def displacement_lengths(self) -> NDArray[np.float32]:
        """How far each voxel is moved beyond the affine map, in millimetres: ``(X, Y, Z)``."""
        assert self.fixed.affine is not None
        field = self.space.field_to_file(self.pair.mapping.displacement, moving=False)[0].cpu()
        turned = np.einsum("ij,jxyz->ixyz", self.fixed.affine[:3, :3], field.double().numpy())
        lengths: NDArray[np.float32] = np.linalg.norm(turned, axis=0).astype(np.float32)
        return lengths


@plain_modes()
@torch.no_grad()
def register_volumes(
    moving: Volume,
    fixed: Volume,
    *,
    transform: str = "deformable",
    budget: str = "default",
    metric: str | None = None,
    moving_mask: Path | None = None,
    fixed_mask: Path | None = None,
    moving_labels: Path | None = None,
    fixed_labels: Path | None = None,
    initial: NDArray[np.float64] | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> VolumeRegistration:
    """Registers a moving volume to a fixed one, or a slice to a slice.

    The two may differ in size, spacing and direction. A file without spacing is taken to have
    voxels of 1 mm.

    Args:
        moving: What `read_volume` gives.
        fixed: Likewise.
        transform: "deformable", or "rigid", "similarity" or "affine".
        budget: "fast", "default" or "best".
        metric: "lncc", "mutual_information" or "mind"; None as `plasticine.registration.register`
            chooses.
        moving_mask: File of a mask on the moving image's voxels: more than 0 counts.
        fixed_mask: Likewise of the fixed image.
        moving_labels: File of a label map on the moving image's voxels, to be carried.
        fixed_labels: File of one on the fixed image's, to compare the carried one with.
        initial: ``(4, 4)``, fixed to moving millimetres (RAS+), where the affine stage begins.
        device: Torch device.
        progress: Called as (done, all).

    Returns:
        The registration, on the files' grids.

    Raises:
        FileNotFoundError: There is no mask or label map of that name.
        TypeError: A label map holds no real numbers.
        ValueError: A slice meets a volume, an image is of one value everywhere, a mask is empty or
            on another grid, or an option is not known.
    """
    if fixed_labels is not None and moving_labels is None:
        raise ValueError("labels of the fixed image are compared with those of the moving one")
    placed = [volume.placed(DEFAULT_ORIENTATION) for volume in (moving, fixed)]
    moving, fixed = placed
    for name, volume in (("moving", moving), ("fixed", fixed)):
        if volume.data.min() == volume.data.max():
            raise ValueError(
                f"{volume.path}: the {name} image is {volume.data.flat[0]:g} everywhere, there is "
                "nothing to register"
            )
    space = PairSpace.of(moving, fixed)
    source = space.to_tensor(moving.data, moving=True).to(device)
    target = space.to_tensor(fixed.data, moving=False).to(device)
    masks = [
        None if path is None else _read_mask(path, volume, space, moving=is_moving).to(device)
        for path, volume, is_moving in ((moving_mask, moving, True), (fixed_mask, fixed, False))
    ]
    notes = [f"{volume.path}: {note}" for volume in placed for note in volume.notes]
    label_maps: list[NDArray[np.int64] | None] = []
    for path, volume in ((moving_labels, moving), (fixed_labels, fixed)):
        labels, more = (None, ()) if path is None else _read_labels(path, volume)
        label_maps.append(labels)
        notes += more
    started = time.perf_counter()
    pair = register(
        source,
        target,
        space.moving_affine,
        space.fixed_affine,
        transform=transform,
        budget=budget,
        metric=metric,
        moving_mask=masks[0],
        fixed_mask=masks[1],
        initial=None if initial is None else _within(initial, space),
        progress=progress,
    )
    physical = space.physical(pair.affine.physical)
    displacement = _in_file(pair.mapping, physical, fixed, space, moving=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "plasticine.invert", RuntimeWarning)
        back = pair.inverse
    if any("plasticine.invert" in str(warning.message) for warning in caught):
        notes.append("the inverse is not exact everywhere: see inverse_consistency in the record")
    inverse = _in_file(back, torch.linalg.inv(physical), moving, space, moving=True)
    seconds = time.perf_counter() - started
    stages = {
        "before": _as_placed(pair, space),
        "affine": dataclasses.replace(
            pair.mapping, displacement=torch.zeros_like(pair.mapping.displacement)
        ),
        "after": pair.mapping,
    }
    warped = {name: _warped(mapping, source) for name, mapping in stages.items()}

    def of_fixed(tensor: torch.Tensor) -> NDArray[Any]:
        array: NDArray[Any] = space.to_file(tensor, moving=False)[0].numpy()
        return array

    carried = None
    if label_maps[0] is not None:
        label_map = space.to_tensor(label_maps[0], moving=True).to(device)
        carried = of_fixed(_carried(pair.mapping, label_map))
    return VolumeRegistration(
        moving=moving,
        fixed=fixed,
        space=space,
        pair=pair,
        before=of_fixed(warped["before"]),
        warped=of_fixed(warped["after"]),
        valid=of_fixed(pair.valid),
        displacement=displacement,
        inverse_displacement=inverse,
        jacobian=of_fixed(pair.jacobian),
        affine=physical.numpy(),
        similarity={name: _similarity(image, target, masks[1]) for name, image in warped.items()},
        arguments={
            "transform": transform,
            "budget": budget,
            "metric": metric,
            "moving_mask": moving_mask,
            "fixed_mask": fixed_mask,
            "moving_labels": moving_labels,
            "fixed_labels": fixed_labels,
            "initial": initial,
            "device": device,
        },
        seconds=seconds,
        labels=carried,
        fixed_labels=label_maps[1],
        notes=tuple(notes),
    )


def _in_file(
    mapping: AffineDisplacement,
    physical: torch.Tensor,
    volume: Volume,
    space: PairSpace,
    *,
    moving: bool,
) -> NDArray[np.float32]:
    """A map's whole displacement along the axes of a file, ``(3, X, Y, Z)`` in its voxels."""
    field = space.field_to_file(mapping.displacement, moving=moving)
    total = total_displacement(field, physical, torch.from_numpy(volume.affine))
    array: NDArray[np.float32] = total[0].cpu().numpy()
    return array


def _as_placed(pair: PairRegistration, space: PairSpace) -> AffineDisplacement:
    """φ = id in millimetres: what the headers alone say."""
    still = torch.zeros_like(pair.mapping.displacement)
    voxels = torch.linalg.inv(space.moving_affine) @ space.fixed_affine
    return AffineDisplacement(still, voxels[None, :-1].to(still), pair.mapping.moving_size)


def _warped(mapping: AffineDisplacement, image: torch.Tensor) -> torch.Tensor:
    """The moving image at φ; outside of it, its least value: the air of MR and of CT alike."""
    least = image.min()
    return mapping.warp(image - least, padding="zeros") + least


def _carried(mapping: AffineDisplacement, labels: torch.Tensor) -> torch.Tensor:
    """The label nearest to each place; 0 outside of the label map."""
    # The labels' ranks move in float64, and so must the map.
    offset = mapping.offset().double()
    affine = None if mapping.affine is None else mapping.affine.double()

    def nearest(values: torch.Tensor, padding: str) -> torch.Tensor:
        return warp(values, offset, affine=affine, mode="nearest", padding=padding)

    moved = move_labels(labels, lambda ranks: nearest(ranks, "border"))
    inside = nearest(torch.ones_like(labels, dtype=torch.float64), "zeros") > 0
    return moved * inside


def _similarity(
    warped: torch.Tensor, fixed: torch.Tensor, mask: torch.Tensor | None
) -> dict[str, float]:
    return {
        "lncc": float(lncc(warped, fixed, window=5, mask=mask)),
        "mutual_information": float(mutual_information(warped, fixed, mask=mask)),
    }


def _own_grid(volume: Volume) -> ModelGrid:
    """The file's own axes, as what reads a file on the same voxels takes them."""
    assert volume.affine is not None
    x, y, z = volume.data.shape
    codes = "".join(nibabel.aff2axcodes(volume.affine))
    return ModelGrid.of((x, y, z), volume.affine, orientation=codes, ndim=3, spacing=None)


def _read_mask(path: Path, volume: Volume, space: PairSpace, *, moving: bool) -> torch.Tensor:
    """``(1, 1, *spatial)``, of an image's dtype, 1 where it counts.

    Raises:
        ValueError: It is on another grid, or counts nothing.
    """
    assert volume.affine is not None
    mask = read_same_grid(path, _own_grid(volume), volume.affine, DEFAULT_ORIENTATION).data > 0
    if not mask.any():
        raise ValueError(f"{path}: the mask is empty, nothing of it is more than 0")
    return space.to_tensor(mask.astype(np.float32), moving=moving)


def _read_labels(path: Path, volume: Volume) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    assert volume.affine is not None
    labels, notes = read_labels(path, _own_grid(volume), volume.affine, DEFAULT_ORIENTATION)
    array: NDArray[np.int64] = labels[0, 0].numpy()
    return array, notes


def _within(initial: NDArray[np.float64], space: PairSpace) -> torch.Tensor:
    """An initial map between the tensors' millimetres.

    Raises:
        ValueError: It is not (4, 4), or the images are slices.
    """
    if initial.shape != (4, 4):
        raise ValueError(f"initial: expected a matrix (4, 4), got {initial.shape}")
    if space.planes is not None:
        raise ValueError("an initial map is for volumes, not for slices")
    return torch.from_numpy(np.asarray(initial, dtype=np.float64))
