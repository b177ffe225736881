"""Files: reading images, translating them in their own space, writing what came of it."""

from plasticine.io.folder import OutputFolder
from plasticine.io.grid import ModelGrid
from plasticine.io.intensity import Normalisation, normalise
from plasticine.io.nifti import read_displacement, write_displacement, write_image
from plasticine.io.translate import VolumeTrace, translate_volume
from plasticine.io.volume import Volume, read_volume

__all__ = [
    "ModelGrid",
    "Normalisation",
    "OutputFolder",
    "Volume",
    "VolumeTrace",
    "normalise",
    "read_displacement",
    "read_volume",
    "translate_volume",
    "write_displacement",
    "write_image",
]
