"""The record of a translation: everything needed to read it, or to make it again."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from plasticine.io.translate import VolumeTrace
from plasticine.io.volume import Volume
from plasticine.ops.folding import Folding

# Version 1 had null for NaN and infinity.
FORMAT_VERSION = 2

_SURROGATE = re.compile("[\ud800-\udfff]")


def describe(result: VolumeTrace) -> dict[str, Any]:
    """Describes a translation in plain numbers and text.

    Args:
        result: The translation.

    Returns:
        A dictionary that is valid JSON, as `as_plain` makes it.
    """
    record = {
        "format": "plasticine trace",
        "format_version": FORMAT_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "model": result.trace.model | {"card": result.card},
        "seed": result.trace.arguments.get("seed"),
        "arguments": result.trace.arguments,
        "input": _describe_input(result),
        "grid": _describe_grid(result),
        "normalisation": dataclasses.asdict(result.normalisation),
        "one_deformation": result.trace.one_deformation,
        "folding": describe_folding(result.folding, result.jacobian),
        "metrics": _metrics(result),
        "domain_check": result.domain_check,
        "device": result.device,
        "seconds": result.trace.seconds,
    }
    plain = as_plain(record)
    assert isinstance(plain, dict)
    return plain


def deformation_in_words(result: VolumeTrace) -> str:
    """Says how many φ moved the images.

    Args:
        result: The translation.

    Returns:
        A few words.
    """
    if not result.trace.arguments.get("deform", True):
        return "φ = id, shape kept"
    if not result.trace.one_deformation:
        return f"{len(result.source)} φ, one for each picture"
    slices = result.grid.ndim == 2 and len(result.source) > 1
    return "one φ, smooth across the slices" if slices else "one φ"


def describe_file(path: Path) -> dict[str, str]:
    """Names a file so that it can be told from another of the same name.

    Args:
        path: The file.

    Returns:
        Its name and its SHA-256 checksum.

    Raises:
        OSError: It cannot be read.
    """
    return {"file": printable(path.name), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def versions() -> dict[str, str]:
    """Of this package and of what its results depend on."""
    from plasticine import __version__

    return {
        "plasticine": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "nibabel": nibabel.__version__,
    }


def _describe_input(result: VolumeTrace) -> dict[str, Any]:
    return describe_volume(result.volume) | {
        "notes": result.volume.notes,
        "labels": result.labels,
        "reference": result.reference,
    }


def describe_volume(volume: Volume) -> dict[str, Any]:
    """What a file is and where its image lies.

    Args:
        volume: Placed in space.

    Returns:
        The facts by name.
    """
    assert volume.affine is not None
    return {
        "file": volume.path,
        "kind": volume.kind,
        "shape": volume.stored_shape,
        "dtype": volume.stored_dtype,
        "affine": volume.affine,
        "orientation": "".join(nibabel.aff2axcodes(volume.affine)),
        "spacing_mm": np.linalg.norm(volume.affine[:3, :3], axis=0),
    }


def _describe_grid(result: VolumeTrace) -> dict[str, Any]:
    grid = result.grid
    if grid.resampled:
        how = (
            "the model worked on its own grid; displacement, translated image and residual were "
            "interpolated linearly to the input's voxels, x∘φ, the Jacobian and the folding "
            "statistics were computed there"
        )
    else:
        how = "the model worked on the input's own voxels, nothing was interpolated"
    return {
        "images": result.source.shape[0],
        "input_shape": grid.input_shape,
        "model_shape": grid.model_shape,
        "model_voxels_per_input_voxel": grid.scale,
        "resampled": grid.resampled,
        "description": how,
    }


def describe_folding(folding: Folding, jacobian: torch.Tensor) -> dict[str, Any]:
    """Folding over all images, and per image; scheme and region always named with the numbers.

    Args:
        folding: The statistics of each image.
        jacobian: ``(N, 1, *spatial)``, the determinants that they are of.

    Returns:
        The numbers by name.
    """
    worst = {
        "folds": int(folding.folds.sum()),
        "fraction": folding.fraction.mean(),
        "minimum": folding.minimum.min(),
        "maximum": folding.maximum.max(),
        # Over all images at once, where `Folding` gives one for each.
        "sd_log_jacobian": jacobian.double().clamp(min=1e-9).log().std(correction=0),
        "non_diffeomorphic_volume": folding.non_diffeomorphic_volume.sum(),
    }
    return {
        "scheme": folding.scheme,
        "region": folding.region,
        **worst,
        "per_image": {name: getattr(folding, name) for name in worst},
    }


def _metrics(result: VolumeTrace) -> dict[str, Any]:
    lengths = result.displacement_lengths
    trace = result.trace
    agreement = trace.structure_agreement
    return {
        "displacement_mean_mm": lengths.mean(),
        "displacement_max_mm": lengths.max(),
        "valid_fraction": result.valid.float().mean(),
        "residual_mean_absolute": result.residual.abs().mean(),
        # None of a single sample.
        "uncertainty_mean": None if result.uncertainty is None else result.uncertainty.mean(),
        # None where it cannot be known: ŷ comes without the labels that a map is made of.
        "structure_agreement_mean": None if agreement is None else agreement.float().mean(),
        "structure_agreement_per_image": agreement,
        "inverse_consistency_mean_model_voxels": trace.inverse_consistency.mean(),
        "inverse_consistency_max_model_voxels": trace.inverse_consistency.max(),
    }


def figures_of(
    record: dict[str, Any], groups: Mapping[str, Sequence[str] | None]
) -> dict[str, Any]:
    """A record's single numbers by name, for one line of a table.

    Args:
        record: As a translation or a registration writes it.
        groups: Parts of the record, and which of their figures; None for all.

    Returns:
        Figures by "group.name"; of parts of parts "group.part.name". Lists are left out.
    """
    found: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                add(f"{prefix}.{name}", inner)
        elif not isinstance(value, list):
            found[prefix] = value

    for group, names in groups.items():
        part = record.get(group)
        if part is None:
            continue
        if isinstance(part, dict) and names is not None:
            part = {name: part[name] for name in names if name in part}
        add(group, part)
    return found


def as_plain(value: Any) -> Any:
    """Tensors, arrays and tuples as lists, numbers and text as JSON knows them.

    NaN and infinity, which JSON has no numbers for, are the words "nan", "inf" and "-inf", which
    Python's `float` and pandas read: a failure that was left blank would be left out of averages.

    Args:
        value: What a record holds.

    Returns:
        The same of plain numbers, `printable` text, lists and dictionaries.

    Raises:
        TypeError: It holds something else.
    """
    if isinstance(value, torch.Tensor):
        return as_plain(value.detach().cpu().tolist())
    if isinstance(value, np.ndarray | np.generic):
        return as_plain(value.tolist())
    if isinstance(value, dict):
        return {printable(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, str | Path):
        return printable(value)
    raise TypeError(f"cannot write a {type(value).__name__} into a record")


def printable(text: Any) -> str:
    r"""Text that can be encoded, such as the name of a file whose bytes are not UTF-8.

    Args:
        text: A string, a path, or anything that has a text.

    Returns:
        The same, with each byte that is not UTF-8 (a surrogate escape) as ``\xe4``, and any
        other lone surrogate as ``\ud800``.
    """

    def escaped(found: re.Match[str]) -> str:
        code = ord(found[0])
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"

    return _SURROGATE.sub(escaped, str(text))
