"""The mask of where a deformation lands inside the image."""

from __future__ import annotations

import torch
from refusal import refuses

from plasticine.nn.validity import validity_mask


class TestValidityMask:
    def test_of_a_shift(self) -> None:
        u = torch.zeros(1, 2, 5, 6)
        assert validity_mask(u).all()
        u[:, 0] = 1.5
        mask = validity_mask(u)
        assert mask.shape == (1, 1, 5, 6)
        assert mask.dtype == torch.bool
        assert mask[0, 0, :, 0].tolist() == [True, True, True, False, False]
        u[:, 0] = -1.0
        assert validity_mask(u)[0, 0, :, 0].tolist() == [False, True, True, True, True]
        assert validity_mask(u - 0.0, size=(3, 6))[0, 0, :, 0].tolist() == [
            False,
            True,
            True,
            True,
            False,
        ]

    def test_with_an_affine_and_broadcast(self) -> None:
        affine = torch.tensor([[[0.0, 1, 0], [1, 0, 0]], [[1.0, 0, -2], [0, 1, 0]]])
        mask = validity_mask(torch.zeros(1, 2, 4, 6), affine)
        assert mask.shape == (2, 1, 4, 6)
        assert mask[0, 0].tolist() == [[True] * 4 + [False] * 2] * 4
        assert mask[1, 0].tolist() == [[False] * 6] * 2 + [[True] * 6] * 2
        assert validity_mask(torch.zeros(2, 3, 4, 4, 4)).all()

    def test_nan_is_outside_and_half_precision_counts_voxels(self) -> None:
        u = torch.zeros(1, 2, 3, 3)
        u[0, 0, 1, 1] = torch.nan
        assert validity_mask(u).sum() == 8
        long = torch.zeros(1, 2, 1, 4098, dtype=torch.float16)
        long[:, 1] = 1.0
        assert validity_mask(long).sum() == 4097

    def test_errors(self) -> None:
        u = torch.zeros(2, 2, 4, 4)
        refuses(ValueError, "displacement must be", validity_mask, torch.zeros(1, 3, 4, 4))
        refuses(TypeError, "floating point", validity_mask, u.long())
        refuses(ValueError, "size must have 2", validity_mask, u, size=(4, 4, 4))
        refuses(ValueError, "affine must be", validity_mask, u, torch.zeros(3, 2, 3))
        refuses(TypeError, "dtype", validity_mask, u, torch.zeros(2, 2, 3, dtype=torch.float64))
