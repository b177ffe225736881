"""Uncertainty of several samples, and whether an input is like the training images."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from command_line import Run
from small_models import images, untrained

from plasticine.io import check_domain, describe_domain
from plasticine.translation import Translator


def test_uncertainty_is_the_deviation_of_the_samples(
    run: Run, head: Path, model_file: Path, tmp_path: Path
) -> None:
    translator = untrained(still=True)
    image = images(2, 1, 16, 16)
    several = translator.translate(image, samples=4, deform=False)
    assert several.uncertainty is not None
    assert several.uncertainty.shape == image.shape
    # Of n samples with sums S_n: the sample n is S_n - S_(n-1).
    sums = [
        n * translator.translate(image, samples=n, deform=False).translated for n in range(1, 5)
    ]
    each = torch.stack(
        [b - a for a, b in zip([torch.zeros_like(image), *sums], sums, strict=False)]
    )
    torch.testing.assert_close(several.uncertainty, each.std(0), atol=1e-4, rtol=1e-3)
    assert translator.translate(image, samples=1).uncertainty is None
    out = tmp_path / "out"
    assert run("translate", head, "-m", model_file, "-o", out, "--samples", "2", "-q")[0] == 0
    written = np.asarray(nibabel.load(out / "uncertainty.nii.gz").dataobj)
    assert written.shape == nibabel.load(head).shape
    record = json.loads((out / "trace.json").read_text(encoding="utf-8"))
    assert record["metrics"]["uncertainty_mean"] == pytest.approx(float(written.mean()), rel=1e-4)
    arguments = ("translate", head, "-m", model_file, "-o", out, "-q", "--overwrite")
    assert run(*arguments)[0] == 0
    assert not (out / "uncertainty.nii.gz").exists()


def bodies(count: int) -> torch.Tensor:
    """Ellipses of several sizes, brighter at the top."""
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij"
    )
    sizes = torch.linspace(0.6, 0.8, count).reshape(-1, 1, 1, 1)
    inside = (rows / 1.1) ** 2 + (columns / 0.8) ** 2 < sizes**2
    return inside * (0.6 - 0.25 * rows)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: x, None),
        (lambda x: x.flip(-1), None),
        (lambda x: x.flip(-2), "another orientation"),
        (lambda x: x.transpose(-1, -2), "another orientation"),
        (lambda x: (0.95 - x) * (x > 0), "another contrast"),
        (lambda x: torch.nn.functional.interpolate(x, scale_factor=1.6), "skull"),
        (lambda x: 0 * x, "empty"),
    ],
)
def test_the_domain_check(change, sentence: str | None) -> None:
    domain = json.loads(json.dumps(describe_domain(bodies(9))))
    found = check_domain(
        domain, change(bodies(4)), spacing=(2, 2, 2), model_spacing=2.0, agreement=None
    )
    assert found["inside"] is (sentence is None)
    assert sentence is None or any(sentence in warning for warning in found["warnings"])
    coarse = check_domain(None, bodies(4), spacing=(2, 2, 5), model_spacing=2.0, agreement=None)
    assert "coarser than the 2 mm" in coarse["warnings"][0]


def test_the_shipped_model_knows_its_domain(data_folder: Path) -> None:
    if "brain-t1-t2" not in Translator.shipped():
        pytest.skip("this build ships no weights")
    card = Translator.load("brain-t1-t2").card
    with np.load(data_folder / "brain_t1_t2_flair" / "slices_2mm_112px.npz") as slices:
        read = {n: torch.from_numpy(slices[n][:, None] / 255).float() for n in ("T1_07", "T2_07")}

    def checked(images: torch.Tensor) -> dict:
        return check_domain(
            card["domain"], images, spacing=None, model_spacing=None, agreement=None
        )

    assert checked(read["T1_07"])["inside"] is True
    assert "another contrast" in checked(read["T2_07"])["warnings"][0]
    assert "orientation" in checked(read["T1_07"].flip(-2))["warnings"][0]
