"""The noise predictor ε_θ(y_k, c, k): a U-Net, its noise schedule and its condition."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plasticine.diffusion.schedule import NoiseSchedule
from plasticine.diffusion.unet import UNet


class Denoiser(nn.Module):
    """Predicts the noise in a noisy target image from the image and a structure map.

    The condition is concatenated to the noisy image. A dropped condition (classifier-free
    guidance: Ho and Salimans, 2022) is all zeros, and one more channel says whether it is
    there, so that a map that happens to be zero is not taken for none.

    The network's raw output is the mix v = √ᾱ·ε − √(1−ᾱ)·y (Salimans and Ho, "Progressive
    distillation", 2022), from which ε follows; at the noisiest steps, where ε says nothing of
    the image, this is what lets a short training learn its grey levels. On a rectified flow
    (schedule "flow") it is ε − y, the velocity of the straight line from the image to the noise.

    Args:
        ndim: spatial axes, 2 or 3.
        condition_channels: channels of the structure map.
        schedule: the noise schedule.
        channels, blocks, patch_size: as ``UNet`` documents them.
    """

    def __init__(
        self,
        ndim: int,
        condition_channels: int,
        schedule: NoiseSchedule,
        channels: tuple[int, ...] = (64, 96, 128, 128),
        blocks: int = 2,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.condition_channels = condition_channels
        self.network = UNet(ndim, condition_channels + 2, 1, channels, blocks, patch_size)

    def predict(self, noisy: Tensor, condition: Tensor | None, k: Tensor) -> tuple[Tensor, Tensor]:
        """The clean image and the noise that ``noisy`` is made of, by one run of the network.

        Args:
            noisy: (N, 1, *spatial), y_k.
            condition: (N, condition_channels, *spatial) within [0, 1], or None: dropped.
            k: (N,) int64, diffusion steps.

        Returns:
            (y0, ε), each (N, 1, *spatial), float32.
        """
        return self._split(noisy, self._mix(noisy, condition, k), k)

    def predict_noise(self, noisy: Tensor, condition: Tensor | None, k: Tensor) -> Tensor:
        """ε_θ(y_k, c, k), (N, 1, *spatial) float32; arguments as ``predict``'s."""
        return self.predict(noisy, condition, k)[1]

    def guided(
        self, noisy: Tensor, condition: Tensor, k: Tensor, guidance: float
    ) -> tuple[Tensor, Tensor]:
        """``predict`` moved away from the unconditional prediction.

        Args:
            noisy: as ``predict``'s.
            condition: as ``predict``'s, but given.
            k: as ``predict``'s.
            guidance: w of ε_uncond + w·(ε_cond − ε_uncond); 1 is the conditional model and
                runs the network once.
        """
        if guidance == 1:
            return self.predict(noisy, condition, k)
        # A copy: in a CUDA graph the second run would write over the first one's result.
        unconditional = self._mix(noisy, None, k).clone()
        mix = torch.lerp(unconditional, self._mix(noisy, condition, k), guidance)
        return self._split(noisy, mix, k)

    def loss(
        self, image: Tensor, condition: Tensor, noise: Tensor, k: Tensor, keep: Tensor
    ) -> Tensor:
        """The training loss: the mean squared error of the raw output.

        It is ‖ε − ε_θ‖² / a_k², for a diffusion and a flow alike, where a_k is not 0.

        Args:
            image: (N, 1, *spatial) within [-1, 1], of the target domain.
            condition: (N, condition_channels, *spatial), its structure map.
            noise: as the image, standard normal.
            k: (N,) int64, within 1 … T.
            keep: (N,) bool; false drops the condition.
        """
        signal, spread = self.schedule.levels(k, image.ndim - 2)
        noisy = signal * image + spread * noise
        mix = self._mix(noisy, condition, k, keep)
        flows = self.schedule.kind == "flow"
        wanted = noise - image if flows else signal * noise - spread * image
        return torch.mean((mix - wanted) ** 2)

    def _split(self, noisy: Tensor, mix: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """(y0, ε) of a noisy image and the network's raw output."""
        signal, spread = self.schedule.levels(k, noisy.ndim - 2)
        if self.schedule.kind == "flow":
            return noisy - spread * mix, noisy + signal * mix
        return signal * noisy - spread * mix, spread * noisy + signal * mix

    def _mix(
        self, noisy: Tensor, condition: Tensor | None, k: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        if condition is None:
            given = noisy.new_zeros(len(noisy), self.condition_channels + 1, *noisy.shape[2:])
        else:
            given = torch.cat([condition, torch.ones_like(noisy)], 1)
            if keep is not None:
                given = given * keep.view(-1, *([1] * (noisy.ndim - 1)))
        return self.network(torch.cat([noisy, given], 1), k).float()
