"""The rule of vmap that the operators share; each under maps is in test_conformance_torch.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import vmap

import plasticine
from plasticine.conformance import SIZES, Maker
from plasticine.ops._operator import fold_batch

OPERATOR = "warp"
IN_DIMS = [(0, 0, 0), (1, -1, 2), (None, 0, None), (0, None, None), (-2, None, 1), (0, -1, None)]


@pytest.mark.parametrize("in_dims", IN_DIMS, ids=str)
def test_warp_over_any_axes(served, in_dims):
    make = Maker(SIZES["2d"])
    shared = [make.image(make.source), make.vectors(make.grid, 1.0), make.affine()]
    each = [[x * scale for x in shared] for scale in (1.0, 0.5, -0.75)]
    mapped = []
    for i, axis in enumerate(in_dims):
        for one in each:
            one[i] = (shared if axis is None else one)[i].to(served.device)
        mapped.append(each[0][i] if axis is None else torch.stack([x[i] for x in each], axis))

    def warp(image: Tensor, displacement: Tensor, affine: Tensor) -> Tensor:
        return plasticine.warp(image, displacement, affine=affine, backend=served.backend)

    result = vmap(warp, in_dims=in_dims, out_dims=1)(*mapped)
    torch.testing.assert_close(result, torch.stack([warp(*one) for one in each], 1))


def test_a_batch_of_one_inside_a_map(served):
    make = Maker(SIZES["2d"], batch=3)
    image = make.image(make.source)[:1].to(served.device)
    fields = torch.stack([make.vectors(make.grid, 1.0) for _ in range(4)]).to(served.device)

    def warp(image: Tensor, displacement: Tensor) -> Tensor:
        return plasticine.warp(image, displacement, backend=served.backend)

    result = vmap(warp, in_dims=(None, 0))(image, fields)
    torch.testing.assert_close(result, torch.stack([warp(image, u) for u in fields]))


def test_what_is_not_mapped_is_not_copied():
    image, fields = torch.rand(1, 2, 4, 5), torch.rand(3, 1, 2, 4, 5)
    seen = [fold_batch(image, None, 0, 3), fold_batch(fields, 0, 0, 3)]
    assert [x.shape for x in seen] == [(3, 2, 4, 5)] * 2
    assert seen[0].stride(0) == 0
    assert [x.data_ptr() for x in seen] == [image.data_ptr(), fields.data_ptr()]
