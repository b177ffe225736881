"""Transforms in physical space, and their files.

Points are millimetres along RAS+ axes. A transform maps points of a fixed image to points of a
moving one, which pulls the moving image onto the fixed one's voxels.
"""

# First: it has both what transforms stand on, files of images, and what stands on them.
import plasticine.io  # noqa: F401
from plasticine.transforms.carrying import carry_image, carry_labels, take_points
from plasticine.transforms.ends import Ends
from plasticine.transforms.files import Step, read_chain, read_transform, write_transform
from plasticine.transforms.formats import FORMATS
from plasticine.transforms.image_files import (
    carry_image_file,
    carry_points_file,
    read_grid,
    read_mask,
)
from plasticine.transforms.places import Grid, Places
from plasticine.transforms.transform import (
    AffineTransform,
    BSplineTransform,
    Chain,
    DisplacementField,
    Inverse,
    Transform,
    VelocityField,
    simplified,
)

__all__ = [
    "FORMATS",
    "AffineTransform",
    "BSplineTransform",
    "Chain",
    "DisplacementField",
    "Ends",
    "Grid",
    "Inverse",
    "Places",
    "Step",
    "Transform",
    "VelocityField",
    "carry_image",
    "carry_image_file",
    "carry_labels",
    "carry_points_file",
    "read_chain",
    "read_grid",
    "read_mask",
    "read_transform",
    "simplified",
    "take_points",
    "write_transform",
]
