"""Fields on which we and the others must agree: noise, a smooth one, and one of two real heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import plasticine

MOVING, FIXED = "IXI012_t1.nii.gz", "IXI013_t1.nii.gz"
FIELDS = ("noise", "smooth", "heads")


class Fields:
    """Displacements ``(1, 3, *spatial)`` float64 in voxels, by name, with an image to move.

    Attributes:
        name: "noise" (folds), "smooth" (does not) or "heads" (a registration's).
    """

    def __init__(self, name: str, displacement: Tensor, velocity: Tensor, image: Tensor) -> None:
        self.name = name
        self.displacement = displacement
        self.velocity = velocity
        self.image = image


@pytest.fixture(params=FIELDS)
def fields(request: pytest.FixtureRequest, generator: torch.Generator) -> Fields:
    """Each of the three in turn."""
    if request.param == "heads":
        return request.getfixturevalue("registered_heads")
    size = (17, 14, 21)
    image = torch.rand(1, 1, *size, generator=generator, dtype=torch.float64)
    if request.param == "noise":
        noise = torch.randn(1, 3, *size, generator=generator, dtype=torch.float64)
        return Fields("noise", noise, noise, image)
    coarse = torch.randn(1, 3, 4, 4, 4, generator=generator, dtype=torch.float64) * 1.5
    velocity = F.interpolate(coarse, size, mode="trilinear", align_corners=True)
    return Fields("smooth", plasticine.exponential(velocity), velocity, image)


@pytest.fixture(scope="session")
def registered_heads(data_folder: Path) -> Fields:
    """Two people's heads at 4 mm, registered by a stationary velocity: mean squares, two scales."""
    moving, fixed = (load_head(data_folder / "brain_t1_labels" / name) for name in (MOVING, FIXED))
    velocity = register(moving, fixed)
    displacement = plasticine.exponential(velocity)
    before = (moving - fixed).square().mean()
    after = (plasticine.warp(moving, displacement) - fixed).square().mean()
    assert after < 0.5 * before, "the registration must have moved something"
    return Fields("heads", displacement.double(), velocity.double(), moving.double())


def load_head(path: Path) -> Tensor:
    """A T1 image ``(1, 1, 60, 60, 45)`` in [0, 1], at half its resolution."""
    nibabel = pytest.importorskip("nibabel")
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    image = torch.from_numpy(nibabel.load(path).get_fdata(dtype="float32"))[None, None]
    coarse = F.avg_pool3d(image, 2)
    return coarse / coarse.amax()


def register(moving: Tensor, fixed: Tensor, scales: tuple[int, ...] = (4, 2)) -> Tensor:
    """The velocity ``(1, 3, *spatial)`` whose exponential brings ``moving`` onto ``fixed``.

    Each scale optimises the velocity on a grid so many times coarser, in voxels of the full one.
    """
    size = fixed.shape[2:]
    velocity = torch.zeros(1, 3, *size)
    for scale in scales:
        coarse = [-(-n // scale) for n in size]
        control = F.interpolate(velocity, coarse, mode="trilinear", align_corners=True)
        control.requires_grad_()
        optimiser = torch.optim.Adam([control], lr=0.2)
        for _ in range(25):
            velocity = F.interpolate(control, size, mode="trilinear", align_corners=True)
            warped = plasticine.warp(moving, plasticine.exponential(velocity, steps=5))
            loss = (warped - fixed).square().mean() + 3e-4 * plasticine.smoothness(velocity)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        velocity = F.interpolate(control.detach(), size, mode="trilinear", align_corners=True)
    return velocity
