"""What the scripts that judge a translation are made of."""

from __future__ import annotations

import argparse

import checkout  # noqa: F401  puts the benchmarks on the path
import pytest
import torch

from benchmarks.translation.known_deformation import (
    in_brain,
    known_velocity,
    mean_dice,
    moved_labels,
    tissue_labels,
)
from benchmarks.translation.lesions import (
    Patient,
    blob_figures,
    bright_blobs,
    components,
    contrasts,
)
from plasticine import exponential, folding


def test_a_known_deformation_is_as_large_as_was_asked_and_does_not_fold() -> None:
    brain = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    brain[:, :, 16:48, 20:44] = True
    asked = argparse.Namespace(mean=3.0, largest=6.0, candidates=4)
    velocity = known_velocity(brain, 10.0, torch.Generator().manual_seed(0), asked)
    u = exponential(velocity)
    assert in_brain(u, brain).mean().item() == pytest.approx(3.0, rel=0.01)
    assert in_brain(u, brain).max().item() == pytest.approx(6.0, rel=0.3)
    assert int(folding(u).folds) == 0
    asked.mean = 60.0
    with pytest.raises(RuntimeError, match="all 4 candidates"):
        known_velocity(brain, 10.0, torch.Generator().manual_seed(0), asked)


def test_tissue_is_labelled_in_the_brain_and_moves_with_it() -> None:
    brain = torch.zeros(1, 1, 8, 12, dtype=torch.bool)
    brain[..., 2:10] = True
    image = torch.zeros(1, 1, 8, 12)
    for label, intensity in enumerate((0.1, 0.4, 0.7, 1.0)):
        image[..., 2 + 2 * label : 4 + 2 * label] = intensity
    labels = tissue_labels(image, brain)
    assert labels[0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 0, 0]
    shift = torch.zeros(1, 2, 8, 12)
    shift[:, 1] = 2.0
    moved = moved_labels(labels, shift)
    assert torch.equal(moved[..., :10], labels[..., 2:])
    assert mean_dice(labels, labels) == 1
    assert mean_dice(moved, labels) == 0


@pytest.fixture
def patient() -> Patient:
    """White matter of some noise with two lesions, one of them bright in the true image."""
    shape = (6, 1, 24, 24)
    generator = torch.Generator().manual_seed(0)
    truth = 0.3 + 0.01 * torch.randn(shape, generator=generator)
    lesions = torch.zeros(shape, dtype=torch.bool)
    lesions[1:3, 0, 4:7, 4:7] = True
    lesions[3:5, 0, 14:17, 14:17] = True
    truth[1:3, 0, 4:7, 4:7] = 0.6
    everywhere = torch.ones(shape, dtype=torch.bool)
    return Patient(
        1 - truth, truth, components(lesions, 5), lesions, everywhere, everywhere.clone()
    )


def test_components_are_three_dimensional_and_small_ones_are_left_out(patient: Patient) -> None:
    assert patient.lesions.unique().tolist() == [0, 1, 2]
    assert int((patient.lesions == 1).sum()) == 18
    assert components(patient.any_lesion, 19).unique().tolist() == [0]


def test_contrast_of_each_lesion(patient: Patient) -> None:
    bright, faint = contrasts(patient.truth, patient)
    assert bright > 10
    assert abs(faint) < 1
    assert contrasts(patient.source, patient)[0] == pytest.approx(-bright, rel=1e-3)


def test_invented_blobs_are_told_from_lesions(patient: Patient) -> None:
    supported = bright_blobs(patient.truth, patient, 8.0, 5) > 0
    true = blob_figures(bright_blobs(patient.truth, patient, 8.0, 5), patient, supported)
    assert (true["blobs"], true["false"], true["lesions_found"]) == (1, 0, 1)
    drawn = patient.truth.clone()
    drawn[2:4, 0, 16:19, 3:6] = 0.6
    found = blob_figures(bright_blobs(drawn, patient, 8.0, 5), patient, supported)
    assert (found["blobs"], found["false"], found["false_voxels"]) == (2, 1, 18)
    assert (found["unsupported_by_the_true_T2"], found["unsupported_voxels"]) == (1, 18)
    assert found["lesions_in_white_matter"] == 2
