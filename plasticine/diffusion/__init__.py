"""The intensity translator: a diffusion model, or a rectified flow, of the target domain."""

from plasticine.diffusion.denoiser import Denoiser
from plasticine.diffusion.sampler import SOLVERS, Solver, find_solver, sample, shared_noise
from plasticine.diffusion.schedule import NoiseSchedule
from plasticine.diffusion.slabs import SlabDenoiser
from plasticine.diffusion.unet import ImageUNet, UNet

__all__ = [
    "SOLVERS",
    "Denoiser",
    "ImageUNet",
    "NoiseSchedule",
    "SlabDenoiser",
    "Solver",
    "UNet",
    "find_solver",
    "sample",
    "shared_noise",
]
