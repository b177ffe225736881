"""Registering two volumes, each on the grid of its own file."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io.initial import Initial, Start
from plasticine.io.network_start import network_start
from plasticine.io.pair_inputs import PairInputs, read_pair
from plasticine.io.pair_space import PairSpace
from plasticine.io.points import carry_points
from plasticine.io.similarities import read_similarities
from plasticine.io.volume import Volume
from plasticine.io.volume_registration import VolumeRegistration
from plasticine.nn.labels import LABEL_INTERPOLATIONS, warp_labels
from plasticine.nn.modes import plain_modes
from plasticine.ops import mutual_information
from plasticine.ops.lncc import lncc
from plasticine.ops.warp import warp
from plasticine.registration.displaced import AffineDisplacement
from plasticine.registration.landmarks import Landmarks
from plasticine.registration.pair import register
from plasticine.registration.pair_registration import PairRegistration, total_displacement

if TYPE_CHECKING:
    from plasticine.translation import Translator


@plain_modes()
@torch.no_grad()
def register_volumes(
    moving: Volume,
    fixed: Volume,
    *,
    transform: str = "deformable",
    method: str = "greedy",
    budget: str = "default",
    metric: str | Sequence[str] | None = None,
    rotations: int = 0,
    moving_channels: Sequence[Path] = (),
    fixed_channels: Sequence[Path] = (),
    moving_mask: Path | None = None,
    fixed_mask: Path | None = None,
    moving_labels: Path | None = None,
    fixed_labels: Path | None = None,
    labels_weight: float = 0.0,
    label_interpolation: str = "linear",
    moving_points: Path | None = None,
    fixed_points: Path | None = None,
    moving_landmarks: Path | None = None,
    fixed_landmarks: Path | None = None,
    landmarks_weight: float = Landmarks.weight,
    initial: Initial | None = None,
    network: Translator | None = None,
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
        method: "greedy", or "velocity" for both directions alike.
        budget: "fast", "default" or "best".
        metric: "lncc", "mutual_information" or "mind", of both stages; or several as
            `read_similarities` takes them, such as ("lncc", "mind@2=0.5"), of the deformable stage,
            and the first also of the affine one. None as `plasticine.registration.register`
            chooses.
        rotations: How many rotations, spread over all of them, the affine stage begins from besides
            its other starts.
        moving_channels: Files of further images on the moving image's voxels, of another contrast,
            say, each compared with the one of ``fixed_channels`` in its place.
        fixed_channels: Likewise, on the fixed image's voxels.
        moving_mask: File of a mask on the moving image's voxels: more than 0 counts.
        fixed_mask: Likewise of the fixed image.
        moving_labels: File of a label map on the moving image's voxels, to be carried.
        fixed_labels: File of one on the fixed image's, to compare the carried one with.
        labels_weight: More than 0, and the labels of both drive the deformable stage: how much they
            count beside all that images are compared by together.
        label_interpolation: "linear", the label of the greatest linear weight, or "nearest".
        moving_points: File of points of the moving image, to be carried to the fixed one.
        fixed_points: File of points of the fixed image, to be carried to the moving one.
        moving_landmarks: File of points of the moving image, as `read_landmarks` takes it: those of
            the same row of both files show the same, and pull both stages.
        fixed_landmarks: Likewise of the fixed image.
        landmarks_weight: How strongly they do so: a landmark that lies a voxel off pulls so many
            times as images usually do.
        initial: Where to begin: a file of a transform or several, which `start_from` reads, or a
            matrix ``(4, 4)``, fixed to moving millimetres (RAS+). What is linear is where the
            affine stage begins, in place of its starts; with a displacement field there is none,
            and the deformable stage begins from it.
        network: A trained model, whose registration network sees both images after the affine
            stage: the deformable one begins from what it says. The moving image is to be of the
            model's source domain, the fixed one of its target domain.
        device: Torch device.
        progress: Called as (done, all).

    Returns:
        The registration, on the files' grids.

    Raises:
        FileNotFoundError: There is no file of a name.
        TypeError: A label map holds no real numbers.
        ValueError: A slice meets a volume, an image is of one value everywhere, a mask is empty or
            on another grid, a file is not what it should be, or an option is not known.
        RuntimeError: Points are a surface, and VTK is not installed.
    """
    files: dict[str, Any] = {
        "moving_channels": moving_channels,
        "fixed_channels": fixed_channels,
        "moving_mask": moving_mask,
        "fixed_mask": fixed_mask,
        "moving_labels": moving_labels,
        "fixed_labels": fixed_labels,
        "moving_points": moving_points,
        "fixed_points": fixed_points,
        "moving_landmarks": moving_landmarks,
        "fixed_landmarks": fixed_landmarks,
        "landmarks_weight": landmarks_weight,
        "initial": initial,
    }
    options: dict[str, Any] = {
        "transform": transform,
        "method": method,
        "budget": budget,
        "rotations": rotations,
    }
    similarity = None
    if metric is not None:
        texts = [metric] if isinstance(metric, str) else metric
        similarity = read_similarities(texts, 1 + len(fixed_channels))
    if label_interpolation not in LABEL_INTERPOLATIONS:
        raise ValueError(
            f"label_interpolation must be one of {', '.join(LABEL_INTERPOLATIONS)}; "
            f"got {label_interpolation!r}"
        )
    if not 0 <= labels_weight < math.inf:
        raise ValueError(f"labels_weight must be at least 0 and finite; got {labels_weight}")
    inputs = read_pair(moving, fixed, device=device, **files)
    started = time.perf_counter()
    pair_of = functools.partial(
        register,
        inputs.source,
        inputs.target,
        inputs.space.moving_affine,
        inputs.space.fixed_affine,
        metric=similarity,
        moving_mask=inputs.moving_mask,
        fixed_mask=inputs.fixed_mask,
        landmarks=inputs.landmarks,
    )
    start = inputs.start
    if network is not None:
        _check_network(transform, start)
        affine = pair_of(transform="affine", rotations=rotations, initial=start.matrix)
        start = Start(displacement=network_start(network, affine, inputs))
        options["rotations"] = 0
    pair = pair_of(
        **_driving_labels(inputs, labels_weight),
        initial=start.matrix,
        initial_displacement=start.displacement,
        progress=progress,
        **options,
    )
    notes = (*inputs.notes, *_invert(pair))
    seconds = time.perf_counter() - started
    return VolumeRegistration(
        moving=inputs.moving,
        fixed=inputs.fixed,
        space=inputs.space,
        pair=pair,
        **_fields(pair, inputs),
        **_images(pair, inputs),
        labels=_carried_labels(pair.mapping, inputs, label_interpolation),
        fixed_labels=inputs.fixed_labels,
        **_carried_points(pair, inputs),
        landmark_errors=_landmark_errors(pair, inputs),
        arguments={
            **options,
            **files,
            "rotations": rotations,
            "network": None if network is None else network.card.get("name"),
            "metric": metric,
            "labels_weight": labels_weight,
            "label_interpolation": label_interpolation,
            "device": device,
        },
        seconds=seconds,
        notes=notes,
    )


def _check_network(transform: str, start: Start) -> None:
    if transform != "deformable" or start.displacement is not None:
        raise ValueError(
            "a network is where the deformable stage begins, in place of a displacement field; got "
            f"transform {transform!r}{' and a field' if start.displacement is not None else ''}"
        )


def _driving_labels(inputs: PairInputs, weight: float) -> dict[str, Any]:
    """The label maps as tensors, where they are to drive the registration."""
    if not weight:
        return {}
    moving, fixed = inputs.moving_labels, inputs.fixed_labels
    if moving is None or fixed is None:
        raise ValueError("labels that drive a registration are of both images; got those of one")
    return {
        "moving_labels": inputs.space.to_tensor(moving, moving=True),
        "fixed_labels": inputs.space.to_tensor(fixed, moving=False),
        "labels_weight": weight,
    }


def _landmark_errors(
    pair: PairRegistration, inputs: PairInputs
) -> dict[str, NDArray[np.float64]] | None:
    if inputs.landmarks is None:
        return None
    return {stage: e.numpy() for stage, e in pair.landmark_errors(inputs.landmarks).items()}


def _invert(pair: PairRegistration) -> list[str]:
    """Computes φ⁻¹, and says where it is not exact."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "plasticine.invert", RuntimeWarning)
        _ = pair.inverse
    if any("plasticine.invert" in str(warning.message) for warning in caught):
        return ["the inverse is not exact everywhere: see inverse_consistency in the record"]
    return []


def _fields(pair: PairRegistration, inputs: PairInputs) -> dict[str, Any]:
    """φ and φ⁻¹ along the axes of the files."""
    space = inputs.space
    physical = space.physical(pair.affine.physical)
    back = torch.linalg.inv(physical)
    return {
        "affine": physical.numpy(),
        "displacement": _in_file(pair.mapping, physical, inputs.fixed, space, moving=False),
        "inverse_displacement": _in_file(pair.inverse, back, inputs.moving, space, moving=True),
    }


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


def _images(pair: PairRegistration, inputs: PairInputs) -> dict[str, Any]:
    """The moving image at each stage, how like the fixed one it is there, and the Jacobian."""
    space = inputs.space
    stages = {
        "before": _as_placed(pair, space),
        "affine": dataclasses.replace(
            pair.mapping,
            displacement=torch.zeros_like(pair.mapping.displacement),
            velocity=None,
        ),
        "after": pair.mapping,
    }
    # Of several images the first is what is shown.
    moving, fixed = inputs.source[:, :1], inputs.target[:, :1]
    warped = {name: mapping.warp_in_air(moving) for name, mapping in stages.items()}
    return {
        "before": _of_fixed(warped["before"], space),
        "warped": _of_fixed(warped["after"], space),
        "valid": _of_fixed(pair.valid, space),
        "jacobian": _of_fixed(pair.jacobian, space),
        "similarity": {
            name: _similarity(image, fixed, inputs.fixed_mask) for name, image in warped.items()
        },
    }


def _of_fixed(tensor: torch.Tensor, space: PairSpace) -> NDArray[Any]:
    """One channel along the axes of the fixed file."""
    array: NDArray[Any] = space.to_file(tensor, moving=False)[0].numpy()
    return array


def _as_placed(pair: PairRegistration, space: PairSpace) -> AffineDisplacement:
    """φ = id in millimetres: what the headers alone say."""
    still = torch.zeros_like(pair.mapping.displacement)
    voxels = torch.linalg.inv(space.moving_affine) @ space.fixed_affine
    return AffineDisplacement(still, voxels[None, :-1].to(still), pair.mapping.moving_size)


def _carried_labels(
    mapping: AffineDisplacement, inputs: PairInputs, interpolation: str
) -> NDArray[np.int64] | None:
    """The moving image's labels at each place; 0 outside of their map."""
    if inputs.moving_labels is None:
        return None
    offset, affine = mapping.offset(), mapping.affine
    labels = inputs.space.to_tensor(inputs.moving_labels, moving=True).to(offset.device)
    moved = warp_labels(labels, offset, affine, interpolation=interpolation)
    everywhere = torch.ones_like(labels, dtype=offset.dtype)
    inside = warp(everywhere, offset, affine=affine, mode="nearest", padding="zeros") > 0
    return _of_fixed(moved * inside, inputs.space)


def _carried_points(pair: PairRegistration, inputs: PairInputs) -> dict[str, Any]:
    """Points of the fixed image by φ, those of the moving image by φ⁻¹."""
    found: dict[str, Any] = {}
    there = inputs.space.physical(pair.affine.physical)
    for name, points, of, physical in (
        ("fixed_points", inputs.fixed_points, inputs.fixed, there),
        ("moving_points", inputs.moving_points, inputs.moving, torch.linalg.inv(there)),
    ):
        found[name] = None
        if points is not None:
            is_moving = points is inputs.moving_points
            mapping = pair.inverse if is_moving else pair.mapping
            field = inputs.space.field_to_file(mapping.displacement, moving=is_moving)
            found[name] = carry_points(points, of, field[0].cpu().numpy(), physical.numpy())
    return found


def _similarity(
    warped: torch.Tensor, fixed: torch.Tensor, mask: torch.Tensor | None
) -> dict[str, float]:
    return {
        "lncc": float(lncc(warped, fixed, window=5, mask=mask)),
        "mutual_information": float(mutual_information(warped, fixed, mask=mask)),
    }
