"""File formats of transforms, one a module."""

from plasticine.transforms.formats import (
    elastix,
    freesurfer,
    fsl,
    itk,
    matrix,
    niftyreg,
    pixel_map,
    voxels,
)
from plasticine.transforms.formats.format import Format

FORMATS: tuple[Format, ...] = (
    itk.FORMAT,
    matrix.FORMAT,
    elastix.FORMAT,
    fsl.FORMAT,
    fsl.RELATIVE,
    fsl.ABSOLUTE,
    freesurfer.FORMAT,
    niftyreg.FORMAT,
    voxels.VOXELMORPH,
    voxels.LEARN2REG,
    pixel_map.FORMAT,
)
"""All; of those whose names end alike the first is what such a name is taken for."""
