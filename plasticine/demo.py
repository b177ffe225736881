"""The demonstration: real T1 slices, translated with the shipped weights, without a network."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from plasticine.io import OutputFolder, Volume, VolumeTrace, translate_volume, write_image
from plasticine.report import EVALUATION_FILES, RESULT_FILES, write_results
from plasticine.translation import Translator

MODEL = "brain-t1-t2"
SOURCE_FILE = "source.nii.gz"
# Axial slices of the 2 mm template, from the cerebellum (z = -26 mm) to the vertex (z = 58 mm).
_FIRST, _LAST, _EVERY = 23, 66, 6


def load_template_slices() -> Volume:
    """Axial T1 slices of the MNI152 template that nilearn carries inside its package.

    Returns:
        Eight slices 12 mm apart, 2 mm pixels, skull-stripped, with their place in space.

    Raises:
        RuntimeError: nilearn is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nilearn announces its own coming changes
            from nilearn.datasets import load_mni152_template

            template = load_mni152_template(resolution=2)
    except ImportError as error:
        raise RuntimeError(
            'the demonstration needs nilearn for its images: pip install "plasticine[demo]"'
        ) from error
    slices = template.slicer[:, :, _FIRST:_LAST:_EVERY]
    data = np.ascontiguousarray(slices.get_fdata(), dtype=np.float32)
    return Volume(
        # The template is resampled with splines, which leave tiny negative numbers around it.
        data=np.maximum(data, 0),
        affine=np.asarray(slices.affine, dtype=np.float64),
        path=Path("MNI152 T1 template"),
        kind="nifti",
        stored_dtype="float32",
        stored_shape=data.shape,
        notes=("ICBM152 2009a template as packaged by nilearn, 2 mm, every sixth axial slice",),
    )


def run_demo(
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    steps: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[VolumeTrace, dict[str, Any]]:
    """Translates the template's slices from T1 to T2 and writes the folder.

    Args:
        folder: Where to write; created where it is missing.
        seed: Of the noise.
        steps: Diffusion steps; None for the model's own number.
        progress: Called with (done, total).

    Returns:
        The translation, and what its ``trace.json`` holds.

    Raises:
        RuntimeError: nilearn is not installed.
        OSError: The folder cannot be written.
    """
    with OutputFolder(folder, [SOURCE_FILE, *RESULT_FILES], EVALUATION_FILES) as temporary:
        translator = Translator.load(MODEL)
        volume = load_template_slices()
        result = translate_volume(translator, volume, seed=seed, steps=steps, progress=progress)
        write_image(
            temporary / SOURCE_FILE, volume.data, result.affine, description="MNI152 T1 template"
        )
        record = write_results(result, temporary, model_file=Translator.shipped()[MODEL])
    return result, record
