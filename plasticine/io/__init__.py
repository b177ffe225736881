"""Files: reading images, translating or registering them in their own space, writing results."""

from plasticine.io.displacement import read_displacement, write_displacement
from plasticine.io.domain import check_domain, describe_domain
from plasticine.io.grid import ModelGrid
from plasticine.io.intensity import Normalisation, normalise
from plasticine.io.model_images import LEAST_BODY, ModelImages, body_share, model_images
from plasticine.io.nifti_writing import write_image, write_labels
from plasticine.io.points import read_points
from plasticine.io.reading import READABLE_SUFFIXES, files_in, read_stored, read_volume
from plasticine.io.register import register_volumes
from plasticine.io.same_grid import read_labels, read_same_grid
from plasticine.io.translate import VolumeTrace, translate_volume
from plasticine.io.volume import Volume
from plasticine.io.volume_registration import VolumeRegistration
from plasticine.nn.output_folder import OutputFolder

__all__ = [
    "LEAST_BODY",
    "READABLE_SUFFIXES",
    "ModelGrid",
    "ModelImages",
    "Normalisation",
    "OutputFolder",
    "Volume",
    "VolumeRegistration",
    "VolumeTrace",
    "body_share",
    "check_domain",
    "describe_domain",
    "files_in",
    "model_images",
    "normalise",
    "read_displacement",
    "read_labels",
    "read_points",
    "read_same_grid",
    "read_stored",
    "read_volume",
    "register_volumes",
    "translate_volume",
    "write_displacement",
    "write_image",
    "write_labels",
]
