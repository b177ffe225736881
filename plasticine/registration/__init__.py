"""The spatial transformation module: which deformation carries one domain to another."""

from plasticine.registration.affine import AffineHead, affine_exponential
from plasticine.registration.affine_registration import AffineMap, AffineRegistration
from plasticine.registration.deformation import Deformation
from plasticine.registration.descent import Level
from plasticine.registration.displaced import AffineDisplacement
from plasticine.registration.greedy import GreedyRegistration
from plasticine.registration.landmarks import Landmarks
from plasticine.registration.matching import nearest_targets, structure_descriptor
from plasticine.registration.network import VelocityNetwork
from plasticine.registration.objective import RegistrationObjective
from plasticine.registration.pair import register
from plasticine.registration.pair_registration import PairRegistration
from plasticine.registration.similarity import Similarity
from plasticine.registration.stack import stack_deformation, stack_folding
from plasticine.registration.transport import shape_distance, transport_plan
from plasticine.registration.velocity import VelocityRegistration

__all__ = [
    "AffineDisplacement",
    "AffineHead",
    "AffineMap",
    "AffineRegistration",
    "Deformation",
    "GreedyRegistration",
    "Landmarks",
    "Level",
    "PairRegistration",
    "RegistrationObjective",
    "Similarity",
    "VelocityNetwork",
    "VelocityRegistration",
    "affine_exponential",
    "nearest_targets",
    "register",
    "shape_distance",
    "stack_deformation",
    "stack_folding",
    "structure_descriptor",
    "transport_plan",
]
