"""What a model is, as a recipe's ``model`` and ``card`` tables and a model's file say it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from plasticine.diffusion.sampler import find_solver
from plasticine.diffusion.schedule import NoiseSchedule
from plasticine.diffusion.slabs import check_slabs
from plasticine.nn.table import Table
from plasticine.structure import STRUCTURE_MAPS

Width = Annotated[int, Field(ge=1, le=2**16)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)]
Blocks = Annotated[int, Field(ge=1, le=64)]
Cell = Annotated[int, Field(ge=1, le=64)]
Label = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Labels = Annotated[tuple[Label, ...], Field(min_length=1, max_length=2**16)]


def _even_first(widths: tuple[int, ...]) -> tuple[int, ...]:
    if widths[0] % 2:  # as the sines and cosines of the diffusion step are as many
        raise ValueError(f"expected an even first width; got {widths[0]}")
    return widths


def different(labels: tuple[int, ...]) -> tuple[int, ...]:
    """Refuses a label that is there twice."""
    if len(set(labels)) < len(labels):
        raise ValueError(f"expected different values; got {list(labels)}")
    return labels


UNetWidths = Annotated[Widths, AfterValidator(_even_first)]
DifferentLabels = Annotated[Labels, AfterValidator(different)]


class MINDOptions(Table):
    """Options of ``structure.MIND``."""

    name: Literal["mind"]
    dilations: Annotated[
        tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(min_length=1, max_length=16)
    ] = (1, 2)
    sigma: Annotated[float, Field(gt=0, le=64)] = 0.8


class KMeansOptions(Table):
    """Options of ``structure.KMeans``."""

    name: Literal["kmeans"]
    clusters: Annotated[int, Field(ge=2, le=256)] = 6
    iterations: Annotated[int, Field(ge=1, le=10_000)] = 20


class MultiOtsuOptions(Table):
    """Options of ``structure.MultiOtsu``."""

    name: Literal["multi-otsu"]
    clusters: Annotated[int, Field(ge=2, le=256)] = 6


class ContourOptions(Table):
    """Options of ``structure.Contour``."""

    name: Literal["contour"]
    scales: Annotated[
        tuple[Annotated[float, Field(gt=0, le=64)], ...], Field(min_length=1, max_length=16)
    ] = (0.7, 1.5)
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.6
    reach: Annotated[int, Field(ge=1, le=1024)] = 8


class LabelsOptions(Table):
    """Options of ``structure.Labels``."""

    name: Literal["labels"]
    labels: Annotated[int, Field(ge=1, le=2**16)] | DifferentLabels


class BackTranslationOptions(Table):
    """Options of ``structure.BackTranslation``."""

    name: Literal["back-translation"]
    channels: UNetWidths = (28, 40, 56, 56)
    blocks: Blocks = 1
    patch_size: Cell = 2
    interior: Annotated[int, Field(ge=0, le=1024)] = 0


StructureOptions = Annotated[
    MINDOptions
    | KMeansOptions
    | MultiOtsuOptions
    | ContourOptions
    | LabelsOptions
    | BackTranslationOptions,
    Field(discriminator="name"),
]


class ScheduleOptions(Table):
    """Arguments of ``diffusion.NoiseSchedule``."""

    kind: Literal["cosine", "linear", "flow"] = "cosine"
    steps: Annotated[int, Field(ge=1, le=100_000)] = 1000


class DenoiserOptions(Table):
    """Arguments of ``diffusion.Denoiser``."""

    channels: UNetWidths = (64, 96, 128, 128)
    blocks: Blocks = 2
    patch_size: Cell = 1

    @property
    def multiple(self) -> int:
        """Voxels of the network's coarsest cell, as ``UNet.multiple``."""
        return self.patch_size * 2 ** (len(self.channels) - 1)


class VelocityOptions(Table):
    """Arguments of ``registration.VelocityNetwork``."""

    channels: Annotated[Widths, Field(min_length=2)] = (16, 32, 32, 32)
    velocity_scale: Annotated[float, Field(gt=0, le=1000)] = 1.0
    half_resolution: bool = True
    pooling: Cell = 1
    affine: bool = True
    inverse_from: Literal["negation", "head"] = "negation"
    steps: Annotated[int, Field(ge=0, le=32)] = 7
    checkpoint: Literal["store", "recompute"] = "store"


class SamplingDefaults(Table):
    """A translation's defaults, as ``translation.sampling.Sampling`` documents them."""

    steps: Annotated[int, Field(ge=1, le=10**6)]
    guidance: Annotated[float, Field(ge=-1000, le=1000)]
    start: Annotated[float, Field(gt=0, le=1)]
    # A file from before there was a choice says nothing, and means DDIM.
    solver: str = "ddim"
    slab: Annotated[int, Field(ge=0, le=2**16)] = 0
    overlap: Annotated[int, Field(ge=0, le=2**16)] = 16
    background: Annotated[float, Field(ge=0, le=1)] | None = None
    mirror: bool = False


class ModelConfiguration(Table):
    """A recipe's ``model`` table: the networks, and the defaults of a translation.

    Attributes:
        ndim: spatial axes of the images.
        structure: the structure map, by its name, and its options.
        schedule: the noise schedule; its kind "flow" makes the model a rectified flow.
        denoiser: the denoiser's network.
        velocity: the registration's network.
        sampling: the defaults of a translation.
    """

    ndim: Literal[2, 3]
    structure: StructureOptions
    schedule: ScheduleOptions
    denoiser: DenoiserOptions
    velocity: VelocityOptions
    sampling: SamplingDefaults

    @model_validator(mode="after")
    def _check(self) -> ModelConfiguration:
        find_solver(self.sampling.solver, NoiseSchedule(self.schedule.kind, self.schedule.steps))
        if self.sampling.slab:
            check_slabs(self.sampling.slab, self.sampling.overlap, self.denoiser.multiple)
        return self

    @property
    def needs_labels(self) -> bool:
        """Whether the structure map is made of a label map."""
        return STRUCTURE_MAPS[self.structure.name].needs_labels


class Percentile(Table):
    """Intensities are divided by a percentile of the positive or of all voxels."""

    percentile: Annotated[float, Field(gt=0, le=100)]
    of: Literal["positive", "all"]


class Window(Table):
    """Intensities of a window, low to high, become 0 to 1; of a CT, in Hounsfield units."""

    low: float
    high: float

    @model_validator(mode="after")
    def _check(self) -> Window:
        if not self.low < self.high:
            raise ValueError(f"expected low < high; got {self.low:g} and {self.high:g}")
        single = np.finfo(np.float32)
        if max(abs(self.low), self.high - self.low) > float(single.max):
            raise ValueError(
                f"expected low and a width that float32 holds; got {self.low:g} and {self.high:g}"
            )
        if self.high - self.low < float(single.tiny):
            raise ValueError(
                f"expected a width of {single.tiny:.3g} at least; got {self.low:g} and "
                f"{self.high:g}"
            )
        return self


def _rule(value: Any) -> str:
    of_window = isinstance(value, Window) or (
        isinstance(value, dict) and {"low", "high"} & {*value}
    )
    return "a window" if of_window else "a percentile"


Normalisation = Annotated[
    Annotated[Percentile, Tag("a percentile")] | Annotated[Window, Tag("a window")],
    Discriminator(_rule),
]


def _axis_codes(orientation: str) -> str:
    pairs = ("LR", "PA", "IS")
    if sorted(pair for code in orientation for pair in pairs if code in pair) != sorted(pairs):
        raise ValueError(f"expected three axis codes such as 'SPR'; got {orientation!r}")
    return orientation


class Card(Table):
    """A recipe's ``card`` table: how a model's images are made, and what its users should know.

    Attributes:
        title, source_domain, target_domain: of the model and what it translates.
        ndim: of the images, as the model's.
        spacing_mm: that images are resampled to, millimetres; None leaves their voxels.
        orientation: where slices, rows and columns run: three letters of L/R, P/A and I/S, each
            the end that an axis runs to; None is "SPR".
        normalisation: of the intensities; None takes those in [0, 1] as they are.
        target_normalisation: of the target domain's, where it is another.
        licence, citation, intended_use, limitations: for the model's users.
    """

    title: str | None = None
    source_domain: str | None = None
    target_domain: str | None = None
    ndim: Literal[2, 3] | None = None
    spacing_mm: Annotated[float, Field(gt=0)] | None = None
    orientation: Annotated[str, AfterValidator(_axis_codes)] | None = None
    normalisation: Normalisation | None = None
    target_normalisation: Normalisation | None = None
    licence: str | None = None
    citation: str | None = None
    intended_use: str | None = None
    limitations: str | None = None


class ModelCard(Card):
    """The card in a model's file, which may say more, as how the model was trained."""

    model_config = ConfigDict(extra="allow")
    name: str | None = None
