"""How far an input lies from the images that a model was trained on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from plasticine.io.model_images import LEAST_BODY, body_share

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BODY = 0.1
_THUMBNAIL = 16
_WIDEN = 0.25
"""By which share of its width a range of the training is widened on either side."""

_LEAST = 0.02
"""By which share of its upper end it is widened at least."""

_TURNED = 0.2
"""By how much another orientation must resemble the training's mean image more."""

_COARSEST = 2.0
"""Of the model's spacing: a coarser input has lost what the model draws from."""


def describe_domain(images: Tensor) -> dict[str, Any]:
    """What is typical of a model's training images, for its card.

    Args:
        images: ``(N, 1, *spatial)`` in [0, 1], on the model's grid.

    Returns:
        ``ranges``: the 1st and 99th percentile over the images of each measure of
        `measure_images`. ``thumbnail``: the mean image of 16 voxels a side.

    Raises:
        ValueError: All images are nearly empty.
    """
    images = images.float().cpu()
    seen = images[body_share(images) >= LEAST_BODY]
    if not len(seen):
        raise ValueError("expected training images that are not nearly empty")
    measures = measure_images(seen)
    ranges = {
        name: [round(float(np.percentile(values, p)), 4) for p in (1, 99)]
        for name, values in measures.items()
    }
    thumbnail = _thumbnail(seen)
    return {
        "images": len(seen),
        "ranges": ranges,
        "thumbnail": [round(float(value), 3) for value in thumbnail.flatten()],
    }


def measure_images(images: Tensor) -> dict[str, list[float]]:
    """Measures of each image: quantiles of the body's intensities, its size and its shape.

    Args:
        images: ``(N, 1, *spatial)`` in [0, 1], none empty.

    Returns:
        One value for each image by name: ``intensity_5`` to ``intensity_95``, percentiles of
        voxels brighter than a tenth of white; ``body_voxels``; ``body_aspect``, the extent of the
        body along the last axis over that along the one before.
    """
    found: dict[str, list[float]] = {f"intensity_{round(100 * q)}": [] for q in _QUANTILES}
    found |= {"body_voxels": [], "body_aspect": []}
    for image in images[:, 0]:
        body = image > _BODY
        values = np.quantile(image[body].numpy(), _QUANTILES)
        for quantile, value in zip(_QUANTILES, values, strict=True):
            found[f"intensity_{round(100 * quantile)}"].append(float(value))
        found["body_voxels"].append(float(body.sum()))
        places = body.nonzero()[:, -2:].double().std(0, correction=0) + 0.5
        found["body_aspect"].append(float(places[1] / places[0]))
    return found


def check_domain(
    domain: Mapping[str, Any] | None,
    images: Tensor,
    *,
    spacing: Sequence[float] | None,
    model_spacing: float | None,
    agreement: Tensor | None,
) -> dict[str, Any]:
    """Compares an input with what a model was trained on.

    Args:
        domain: What `describe_domain` gave; None where the model's file has none.
        images: ``(N, 1, *spatial)`` in [0, 1], on the model's grid.
        spacing: The input's millimetres along the model's axes; None where it has none.
        model_spacing: The card's ``spacing_mm``.
        agreement: ``(N,)``, the structure agreement of the translation, if it is known.

    Returns:
        ``inside``: whether all measures lie within the training's, None where that is not known;
        ``warnings``: a sentence for each that does not; ``measures``: the median over the images
        that are not nearly empty, and the training's range.
    """
    images = images.float().cpu()
    seen = images[body_share(images) >= LEAST_BODY]
    warnings = []
    if not len(seen):
        warnings.append("The input is empty or nearly so: there is no body to translate.")
        return {"inside": False, "warnings": warnings, "measures": {}}
    if spacing is not None and model_spacing is not None:
        coarsest = max(spacing)
        if coarsest > _COARSEST * model_spacing:
            warnings.append(
                f"The input's voxels of {coarsest:.3g} mm are coarser than the {model_spacing:.3g}"
                " mm that the model was trained on: details will be guessed."
            )
    if domain is None:
        return {"inside": False if warnings else None, "warnings": warnings, "measures": {}}
    measures: dict[str, Any] = {}
    beyond: dict[str, int] = {}
    for name, values in measure_images(seen).items():
        low, high = domain["ranges"][name]
        value = float(np.median(values))
        margin = max(_WIDEN * (high - low), _LEAST * high)
        measures[name] = {"value": value, "training": [low, high]}
        beyond[name] = (value > high + margin) - (value < low - margin)
    if agreement is not None and "structure_agreement" in domain["ranges"]:
        low, high = domain["ranges"]["structure_agreement"]
        value = float(agreement.float().mean())
        measures["structure_agreement"] = {"value": value, "training": [low, high]}
        if value < low - _WIDEN * (1 - low):
            warnings.append(
                f"The result keeps less of the input's structure ({value:.2f}) than with the "
                f"training images ({low:.2f} at least)."
            )
    warnings += _of_body(beyond, measures)
    turned = _turned(seen, domain["thumbnail"])
    measures["resemblance"] = turned
    if turned["best_turned"] > turned["as_given"] + _TURNED:
        warnings.append(
            "The input lies in another orientation than the training images: check the file's "
            "orientation."
        )
    return {"inside": not warnings, "warnings": warnings, "measures": measures}


def _of_body(beyond: Mapping[str, int], measures: Mapping[str, Any]) -> list[str]:
    """Sentences on intensities, size and shape outside the training's."""
    warnings = []
    off = [name for name in beyond if name.startswith("intensity_") and beyond[name]]
    if beyond["body_voxels"] > 0:
        warnings.append(
            "The body is larger than in the training images: is the skull, or another part of "
            "the body, present?"
        )
    elif beyond["body_voxels"] < 0:
        warnings.append("The body is smaller than in the training images: is it cut off?")
    if beyond["body_aspect"]:
        warnings.append("The body has another shape than in the training images.")
    if off:
        shown = ", ".join(
            f"{name.removeprefix('intensity_')} %: {measures[name]['value']:.2f}, trained on "
            f"{measures[name]['training'][0]:.2f} to {measures[name]['training'][1]:.2f}"
            for name in off
        )
        warnings.append(
            f"The intensities are not those of the training images ({shown}): is it another "
            "contrast or scanner?"
        )
    return warnings


def _thumbnail(images: Tensor) -> Tensor:
    size = [_THUMBNAIL] * (images.dim() - 2)
    small = F.interpolate(images, size=size, mode="area")
    return small.mean(0)[0]


def _turned(images: Tensor, thumbnail: Sequence[float]) -> dict[str, float]:
    """Correlation with the training's mean image, as given and best of the in-plane turns.

    Of what turning changes: the mean over all turns, an ellipse for a head, is taken away first.
    """
    mean = torch.tensor(thumbnail).reshape([_THUMBNAIL] * (images.dim() - 2))
    wanted = _turns(mean)
    wanted_upright = wanted[0] - torch.stack(wanted).mean(0)
    given = _turns(_thumbnail(images))
    middle = torch.stack(given).mean(0)
    scores = []
    for turned in given:
        pair = torch.stack(((turned - middle).flatten(), wanted_upright.flatten()))
        score = float(torch.corrcoef(pair)[0, 1])
        scores.append(score if math.isfinite(score) else 0.0)
    return {"as_given": scores[0], "best_turned": max(scores[1:])}


def _turns(image: Tensor) -> list[Tensor]:
    """An image as it is, upside down, and lying on either side; left and right made alike."""
    found = []
    for swap, flip in itertools.product((False, True), (False, True)):
        turned = image.flip(-2) if flip else image
        turned = turned.transpose(-1, -2) if swap else turned
        found.append((turned + turned.flip(-1)) / 2)
    return found
