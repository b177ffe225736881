"""Where the deformation of two files begins, by the registration network of a trained model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from plasticine.io.model_images import model_images
from plasticine.io.pair_inputs import PairInputs
from plasticine.io.pair_space import PairSpace
from plasticine.io.translate import slice_smoothing
from plasticine.registration.pair_registration import PairRegistration, total_displacement

if TYPE_CHECKING:
    from plasticine.translation import Translator


@torch.no_grad()
def network_start(
    translator: Translator, affine: PairRegistration, inputs: PairInputs
) -> torch.Tensor:
    """φ - id by an affine map and, on top of it, the model's registration network.

    The affine map brings the moving image to the fixed one's voxels. The network's pair stem sees
    both on the model's grid, with the intensities that its card says: the moving image as of its
    source domain, the fixed one as of its target. A two-dimensional model gives the part within its
    slices.

    Args:
        translator: The model.
        affine: An affine registration of the pair.
        inputs: The pair.

    Returns:
        ``(1, d, *fixed spatial)``, fixed voxels, as `register` takes an initial displacement.

    Raises:
        ValueError: The images do not suit the model, or it needs label maps.
    """
    space = inputs.space
    warped = affine.mapping.warp_in_air(inputs.source[:, :1])
    on_fixed = dataclasses.replace(
        inputs.moving,
        data=space.to_file(warped, moving=False)[0].numpy(),
        affine=inputs.fixed.affine,
    )
    laid = model_images(on_fixed, translator.card)
    target = laid.of_target(inputs.fixed.placed(laid.orientation))
    u = translator.displacement(
        laid.images, target, slice_smoothing=slice_smoothing(laid, on_fixed)
    )
    field = torch.from_numpy(laid.grid.displacement_to_file(laid.grid.displacement_from_model(u)))
    u = _within(field, space).to(inputs.target)
    return total_displacement(u, affine.affine.physical, affine.fixed_affine)


def _within(field: torch.Tensor, space: PairSpace) -> torch.Tensor:
    """``(3, X, Y, Z)`` as ``(1, d, *spatial)``: of a slice, what is within its plane."""
    if space.planes is None:
        return field[None]
    axis = space.planes[1].axis
    return field[[i for i in range(3) if i != axis]].squeeze(axis + 1)[None]
