"""Whether two images show unlike contrasts, judged by real ones of the same patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from plasticine.registration.affine_levels import PlacedImage
from plasticine.registration.contrast import contrasts_differ


@pytest.mark.parametrize("patient", ["07", "19", "26"])
@pytest.mark.parametrize("other", ["T2", "FLAIR"])
def test_contrasts_of_one_patient_differ(data_folder: Path, patient: str, other: str) -> None:
    """In patient 19's FLAIR all windows but those of grey and white matter agree with the T1's."""
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    with np.load(data_folder / "brain_t1_t2_flair" / "slices_2mm_112px.npz") as stored:
        one, two = (
            PlacedImage(
                torch.from_numpy(stored[f"{name}_{patient}"])[None, None].float(), None, affine
            )
            for name in ("T1", other)
        )
    unit = torch.eye(4, dtype=torch.float64)
    assert contrasts_differ(one, two, unit)
    bent = PlacedImage(one.image.clamp_min(0).sqrt(), None, affine)
    assert not contrasts_differ(one, bent, unit)
