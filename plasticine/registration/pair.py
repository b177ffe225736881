"""Registering a pair of images: an affine map first, then a diffeomorphism on top of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from plasticine.nn.validity import validity_mask
from plasticine.registration.affine_levels import PlacedImage
from plasticine.registration.affine_objective import METRICS
from plasticine.registration.affine_registration import AffineRegistration, nearest_map
from plasticine.registration.continued import continued
from plasticine.registration.contrast import contrasts_differ
from plasticine.registration.descent import Descent
from plasticine.registration.displaced import AffineDisplacement
from plasticine.registration.greedy import BUDGETS as GREEDY_BUDGETS
from plasticine.registration.image_pair import check_pair
from plasticine.registration.label_channels import with_labels
from plasticine.registration.landmarks import Landmarks, check_landmarks, fitted
from plasticine.registration.pair_registration import PairRegistration, total_displacement
from plasticine.registration.placement import affine_or_placed
from plasticine.registration.similarity import Similarity, similarities_of
from plasticine.registration.velocity import BUDGETS as VELOCITY_BUDGETS
from plasticine.registration.velocity import VelocityRegistration

TRANSFORMS = ("rigid", "similarity", "affine", "deformable")
#: The ways of the deformable stage, and their settings by how long they take.
METHODS: Mapping[str, Mapping[str, Descent]] = {
    "greedy": GREEDY_BUDGETS,
    "velocity": VELOCITY_BUDGETS,
}

# How long the affine stage takes, in iterations of the deformable one on as many voxels, and how
# many it sees at most.
_AFFINE_ITERATIONS, _AFFINE_VOXELS = 35, 400_000
# Standard deviation of what smooths the field, voxels, across contrasts: no metric sees there well
# enough to be followed into every voxel.
_SIGMA_ACROSS = 1.5


def register(
    moving: Tensor,
    fixed: Tensor,
    moving_affine: Tensor | None = None,
    fixed_affine: Tensor | None = None,
    *,
    transform: str = "deformable",
    method: str = "greedy",
    budget: str = "default",
    metric: str | Similarity | Sequence[str | Similarity] | None = None,
    rotations: int = 0,
    moving_mask: Tensor | None = None,
    fixed_mask: Tensor | None = None,
    moving_labels: Tensor | None = None,
    fixed_labels: Tensor | None = None,
    labels_weight: float = 1.0,
    landmarks: Landmarks | None = None,
    initial: Tensor | None = None,
    initial_displacement: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PairRegistration:
    """Registers a moving image to a fixed one: affinely, then by a diffeomorphism.

    Nothing is drawn at random: the result is the same every time.

    Args:
        moving: (1, C, *spatial), 2D or 3D, float32 or float64, in any unit of intensity.
        fixed: (1, C, *its own spatial), of the moving image's dtype and device.
        moving_affine: (d + 1, d + 1), voxel index to millimetres: oblique, flipped, anisotropic as
            it may be. None: voxels of 1 mm.
        fixed_affine: likewise.
        transform: "deformable", or "rigid", "similarity" or "affine": the first stage alone.
        method: how the deformable stage goes: "greedy", `GreedyRegistration`, or "velocity",
            `VelocityRegistration`: a stationary velocity, in both directions alike.
        budget: "fast", "default" or "best", of the deformable stage.
        metric: "lncc", "mutual_information" or "mind", of both stages; or a `Similarity`, or
            several of either, of the deformable one, the first of which is the affine stage's, too.
            None is lncc. Whatever it is, the deformation is smoother where the images are found to
            have unlike contrasts.
        rotations: how many rotations the affine stage begins from besides its other starts, as
            `AffineRegistration` takes them.
        moving_mask: (1, 1, *spatial of moving), bool or floating: voxels of more than 0 count.
        fixed_mask: likewise of fixed.
        moving_labels: (1, 1, *spatial of moving), an integer dtype: with those of fixed they drive
            the deformable stage, which brings each label onto its like.
        fixed_labels: likewise of fixed.
        labels_weight: how much they count beside all that the images are compared by together; 0:
            not at all.
        landmarks: (1, K, d), millimetres, those of the fixed image within it: the affine stage
            begins at the map that suits them best, if they are d or more, and follows the images;
            they pull the deformable one.
        initial: (d + 1, d + 1), fixed to moving millimetres: where the affine stage begins. Without
            one, and without landmarks, the deformable stage begins from where the headers put the
            images if a coarse deformation makes them more alike from there.
        initial_displacement: (1, d, *fixed spatial), voxels of the fixed image: a whole φ - id, as
            `PairRegistration.displacement` is one, from which the deformable stage begins. There is
            no affine stage then: the affine map nearest to it is taken.
        progress: called as (hundredths done of the time that it is likely to take, 100).

    Returns:
        φ.

    Raises:
        TypeError: an argument is no tensor, or the images are not of one floating dtype.
        ValueError: a word is not known, shapes do not fit, an image or a matrix is not finite, a
            matrix has no inverse, a start or landmarks mirror, nothing overlaps where it begins, a
            mask is empty, labels come alone or share none.
        RuntimeError: the field became NaN or infinite.
    """
    for name, word, words in (
        ("transform", transform, TRANSFORMS),
        ("method", method, tuple(METHODS)),
        ("budget", budget, tuple(GREEDY_BUDGETS)),
        ("metric", metric if isinstance(metric, str) else None, (None, *METRICS)),
    ):
        if word not in words:
            known = ", ".join(str(w) for w in words if w is not None)
            raise ValueError(f"{name} must be one of {known}; got {word!r}")
    check_pair(moving, fixed)
    registration = _settings(method, budget, metric, moving)
    deformable = transform == "deformable"
    images = moving, fixed
    if labels_weight and (moving_labels is not None or fixed_labels is not None):
        if not deformable:
            raise ValueError(f"labels drive the deformable stage; got transform {transform!r}")
        labels = moving_labels, fixed_labels
        similarity, images = with_labels(registration.similarity, images, labels, labels_weight)
        registration = dataclasses.replace(registration, similarity=similarity)
    of_affine_stage = "affine" if deformable else transform
    if landmarks is not None:
        found = _fitted(landmarks, fixed, fixed_affine, of_affine_stage)
        if initial is None and initial_displacement is None:
            initial = found
    _check_start(transform, rotations, initial, initial_displacement, fixed)
    ndim = fixed.ndim - 2
    of_affine = _AFFINE_ITERATIONS * min(1.0, _AFFINE_VOXELS / fixed.shape[2:].numel())
    of_deformable = registration.work(registration.iterations, ndim) if deformable else 0.0

    def advance(done: float) -> None:
        if progress is not None:
            progress(round(100 * done / (of_affine + of_deformable)), 100)

    if initial_displacement is None:
        affine = AffineRegistration(of_affine_stage, _affine_metric(metric), rotations=rotations)(
            moving,
            fixed,
            moving_affine,
            fixed_affine,
            moving_mask=moving_mask,
            fixed_mask=fixed_mask,
            initial=initial,
            progress=lambda done, levels: advance(of_affine * done / levels),
        )
    else:
        affine = nearest_map(initial_displacement, moving_affine, fixed_affine)
    moving_matrix, fixed_matrix = (
        torch.eye(fixed.ndim - 1).double() if matrix is None else matrix.detach().double().cpu()
        for matrix in (moving_affine, fixed_affine)
    )
    if deformable and initial is None and initial_displacement is None:
        affine = affine_or_placed(
            affine,
            registration,
            *images,
            moving_matrix,
            fixed_matrix,
            moving_mask=moving_mask,
            fixed_mask=fixed_mask,
        )
    start = None
    if initial_displacement is not None:
        # Less its affine part, which is applied after it.
        back = torch.linalg.inv(affine.physical)
        start = total_displacement(initial_displacement.to(fixed), back, fixed_matrix)
    voxels = affine.voxels[None].to(fixed)
    # No memory, only a shape.
    still = fixed.new_zeros(1).expand(1, ndim, *fixed.shape[2:])
    if not validity_mask(still, voxels, tuple(moving.shape[2:])).any():
        raise ValueError(
            "nothing of the fixed image lies inside of the moving one where the deformation would "
            f"begin: {affine.physical.tolist()}, fixed to moving millimetres ({affine.start})"
        )
    differ = None
    if deformable:
        # Of several images the first tells.
        differ = contrasts_differ(
            _placed(moving[:, :1], moving_mask, moving_matrix),
            _placed(fixed[:, :1], fixed_mask, fixed_matrix),
            affine.physical,
        )
        if differ:
            registration = dataclasses.replace(registration, total_sigma=_SIGMA_ACROSS)
        points = None
        if landmarks is not None:
            points = landmarks.mapped(*map(torch.linalg.inv, (moving_matrix, fixed_matrix)))
        deform: Callable[..., AffineDisplacement] = registration
        if start is not None and isinstance(registration, VelocityRegistration):
            deform = functools.partial(continued, registration)
        mapping = deform(
            *images,
            affine=voxels,
            initial=start,
            spacing=fixed_matrix[:-1, :-1].norm(dim=0).tolist(),
            moving_mask=moving_mask,
            fixed_mask=fixed_mask,
            landmarks=points,
            progress=lambda done, _: advance(of_affine + registration.work(done, ndim)),
        )
    else:
        mapping = AffineDisplacement(still.contiguous(), voxels, tuple(moving.shape[2:]))
    return PairRegistration(affine, mapping, moving_matrix, fixed_matrix, differ)


def _placed(image: Tensor, mask: Tensor | None, affine: Tensor) -> PlacedImage:
    return PlacedImage(image, None if mask is None else (mask > 0).to(image), affine)


def _settings(
    method: str,
    budget: str,
    metric: str | Similarity | Sequence[str | Similarity] | None,
    moving: Tensor,
) -> Descent:
    """Of the deformable stage."""
    registration = METHODS[method][budget]
    similarity = _similarities(metric)
    if similarity is not None:
        registration = dataclasses.replace(registration, similarity=similarity)
    for one in similarities_of(registration.similarity):
        one.check(moving)
    return registration


def _fitted(
    landmarks: Landmarks, fixed: Tensor, fixed_affine: Tensor | None, transform: str
) -> Tensor | None:
    """The map that suits landmarks best; None where they are too few for one."""
    to_mm = torch.eye(fixed.ndim - 1) if fixed_affine is None else fixed_affine.detach()
    check_landmarks(landmarks, torch.linalg.inv_ex(to_mm.double()).inverse, fixed)
    if landmarks.fixed.shape[1] < fixed.ndim - 2:
        return None
    found = fitted(landmarks, transform)
    if not float(torch.linalg.det(found)) > 0:
        raise ValueError(
            "landmarks must not mirror the image; the affine map that fits them best is "
            f"{found.tolist()}"
        )
    return found


def _affine_metric(metric: str | Similarity | Sequence[str | Similarity] | None) -> str:
    """What the affine stage compares images by: the first of what the deformable one does."""
    similarity = _similarities(metric)
    if similarity is None:
        return "lncc"
    return similarity[0].metric if similarity[0].metric in METRICS else "mutual_information"


def _similarities(
    metric: str | Similarity | Sequence[str | Similarity] | None,
) -> tuple[Similarity, ...] | None:
    if metric is None:
        return None
    given = [metric] if isinstance(metric, str | Similarity) else metric
    return similarities_of([Similarity(one) if isinstance(one, str) else one for one in given])


def _check_start(
    transform: str,
    rotations: int,
    initial: Tensor | None,
    displacement: Tensor | None,
    fixed: Tensor,
) -> None:
    if rotations and not (initial is None and displacement is None):
        raise ValueError("there are no rotations to begin from where it is said where to begin")
    if displacement is None:
        return
    if initial is not None or transform != "deformable":
        raise ValueError(
            "an initial displacement is where the deformable stage begins, without an initial "
            f"matrix; got transform {transform!r}"
        )
    shape = (1, fixed.ndim - 2, *fixed.shape[2:])
    if displacement.shape != shape or not displacement.isfinite().all():
        raise ValueError(
            f"initial_displacement must be {shape} and finite; got {tuple(displacement.shape)}"
        )
