"""How far apart two sets of images are: Fréchet and kernel distances of their features.

Features of what network is half of such a figure. The usual one, Inception trained on photographs,
is a download, and knows no medical images. Here they are those of a fixed network with random
weights (`RandomFeatures`): compare them with each other, never with published FID or KID.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from plasticine.metrics.images import check_floating
from plasticine.nn.finite import check_finite

FEATURE_EXTRACTOR = "random-convolutions-1: 4 levels of 16 3x3 convolutions, seed 0, level means"
"""What the features are of, to be named beside every figure. Another network, another number."""

LEVELS = 4
CHANNELS = 16


class RandomFeatures:
    """Features of images from a convolutional network with fixed random weights.

    Four levels of 16 channels: a 3x3 convolution with weights drawn from N(0, 2/fan_in), seed 0,
    ReLU, and 2x2 average pooling between levels. Features are the 64 channels' means over each
    level. Random convolutions keep edges, texture and intensity of several scales apart, which is
    what tells modalities and artefacts apart; they know nothing of anatomy.
    """

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weights = []
        incoming = 1
        for _ in range(LEVELS):
            drawn = torch.randn(
                *(CHANNELS, incoming, 3, 3), generator=generator, dtype=torch.float64, device="cpu"
            )
            self.weights.append(drawn * (2 / (9 * incoming)) ** 0.5)
            incoming = CHANNELS

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, batch: int = 32) -> torch.Tensor:
        """The features of each image.

        Args:
            images: ``(N, 1, H, W)`` within [0, 1], floating point, at least 8 voxels a side.
            batch: Images at a time.

        Returns:
            ``(N, 64)``, float64.

        Raises:
            TypeError: The images are not floating point.
            ValueError: The shape is another, or values lie outside [0, 1].
        """
        check_floating(images, "images")
        smallest = 2 ** (LEVELS - 1)
        if images.dim() != 4 or images.shape[1] != 1 or min(images.shape[2:]) < smallest:
            raise ValueError(
                f"images: expected (N, 1, H, W) of at least {smallest} voxels a side, "
                f"got {tuple(images.shape)}"
            )
        if not len(images):
            return images.new_empty(0, LEVELS * CHANNELS, dtype=torch.float64)
        if not (images.min() >= 0 and images.max() <= 1):
            raise ValueError("images: expected values within [0, 1]")
        return torch.cat([self._features(part) for part in images.split(batch)])

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        features = []
        level = images.double()
        for index, weight in enumerate(self.weights):
            level = F.avg_pool2d(level, 2) if index else level
            padded = F.pad(level, (1, 1, 1, 1), "replicate")
            level = F.conv2d(padded, weight.to(level.device)).relu()
            features.append(level.mean((2, 3)))
        return torch.cat(features, 1)


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Fréchet distance of two sets of features, taken as Gaussian.

    |m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½) with the sample covariances, the distance of FID (Heusel
    et al., "GANs trained by a two time-scale update rule", NeurIPS 2017). Biased upwards where
    images are few.

    Args:
        first: ``(n, features)``, floating point, at least two images.
        second: ``(m, features)``.

    Returns:
        The distance, at least 0.

    Raises:
        TypeError: Features are no floating-point tensor.
        ValueError: Shapes do not fit, a set has fewer than two images, or features are NaN or
            infinite.
    """
    a, b = _checked(first, second)
    root = _square_root(a.T.cov())
    covariance = b.T.cov()
    # tr (C1 C2)^1/2 is the sum of the roots of the eigenvalues of C1^1/2 C2 C1^1/2, symmetric.
    eigenvalues = torch.linalg.eigvalsh(root @ covariance @ root)
    trace = (a.T.cov() + covariance).trace() - 2 * eigenvalues.clamp(min=0).sqrt().sum()
    return max(0.0, float((a.mean(0) - b.mean(0)).square().sum() + trace))


def kernel_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Squared maximum mean discrepancy of two sets of features, without bias.

    With the kernel (x·y / features + 1)³, the distance of KID (Bińkowski et al., "Demystifying MMD
    GANs", ICLR 2018), over all pairs of images at once. Its expectation is 0 where both sets come
    from one distribution, so that it can be slightly negative.

    Args:
        first: ``(n, features)``, floating point, at least two images.
        second: ``(m, features)``.

    Returns:
        The distance.

    Raises:
        TypeError: Features are no floating-point tensor.
        ValueError: Shapes do not fit, a set has fewer than two images, or features are NaN or
            infinite.
    """
    a, b = _checked(first, second)

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def among(x: torch.Tensor) -> torch.Tensor:
        k = kernel(x, x)
        return (k.sum() - k.trace()) / (len(x) * (len(x) - 1))

    return float(among(a) + among(b) - 2 * kernel(a, b).mean())


def _checked(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    for features, name in ((first, "first"), (second, "second")):
        check_floating(features, name)
        if features.dim() != 2 or len(features) < 2:
            raise ValueError(
                f"{name}: expected (images, features) of at least two images, "
                f"got {tuple(features.shape)}"
            )
        check_finite(features, name)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"first and second must have as many features, got {first.shape[1]} "
            f"and {second.shape[1]}"
        )
    return first.double(), second.double()


def _square_root(matrix: torch.Tensor) -> torch.Tensor:
    """Of a symmetric positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
