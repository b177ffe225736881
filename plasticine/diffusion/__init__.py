"""The intensity translator: a noise-prediction diffusion model of the target domain."""

from plasticine.diffusion.denoiser import Denoiser
from plasticine.diffusion.sampler import ddim, sampling_steps
from plasticine.diffusion.schedule import NoiseSchedule
from plasticine.diffusion.unet import UNet

__all__ = ["Denoiser", "NoiseSchedule", "UNet", "ddim", "sampling_steps"]
