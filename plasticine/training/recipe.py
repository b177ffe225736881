"""Recipes: everything a training needs beside the images, in one TOML file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from plasticine.nn.precision import Precision
from plasticine.nn.table import Table
from plasticine.registration.objective import RegistrationObjective
from plasticine.structure import STRUCTURE_MAPS
from plasticine.training.data import RandomDeformation
from plasticine.training.intensity import RandomIntensity
from plasticine.translation.configuration import (
    Card,
    DifferentLabels,
    ModelConfiguration,
    StructureOptions,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LONGEST_NAME = 100
# What no training can do is refused where the recipe is read, and not after its first stage.
Count = Annotated[int, Field(ge=1, le=10**9)]
Samples = Annotated[int, Field(ge=1, le=2**16)]
Size = Annotated[
    tuple[Annotated[int, Field(ge=1, le=2**16)], ...], Field(min_length=2, max_length=3)
]
Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
Domain = Literal["source", "target"]
DOMAINS: tuple[Domain, ...] = ("source", "target")


def _one_part(name: str) -> str:
    """Refuses a name that is not one part of a path: files and folders are named by it."""
    if (
        not name.isprintable()
        or name != name.strip()
        or name[:1] in ("", ".")
        or "/" in name
        or "\\" in name
        or name.endswith(".checkpoint")  # the model would be written over a stage's checkpoint
        or len(name.encode()) > _LONGEST_NAME
    ):
        raise ValueError(
            f"expected a name that is one part of a path: 1 to {_LONGEST_NAME} bytes without / "
            f"and \\, not beginning with a dot and not ending in .checkpoint; got {name!r}"
        )
    return name


def _below(path: str) -> str:
    """Refuses a path that leads out of the data folder."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError(f"expected a path below the data folder; got {path!r}")
    return path


class Body(Table):
    """Keeps the body and drops thin things outside of it, as ``nn.body.body_mask`` has it."""

    threshold: Annotated[float, Field(ge=0, le=1)]
    opening: Annotated[int, Field(ge=0, le=1024)]
    margin: Annotated[int, Field(ge=0, le=1024)]


class DomainImages(Table):
    """One domain's images: what the ``data`` table says of it.

    Attributes:
        names: arrays of ``file``, or files below the data folder.
        labels: of the same kind as ``names``, the label map of each, on its voxels.
        subjects: who is in each array. Images of one subject never meet.
        patients: in its place, arrays that name each image's subject.
        slices: [first, stop] of the slice axis, the first axis of a volume.
        flip: image axes (0 is the first spatial one) that are reversed.
        body: keep the body alone.
    """

    names: Names
    labels: Names | None = None
    subjects: Names | None = None
    patients: Names | None = None
    slices: tuple[Annotated[int, Field(ge=0)], Count] | None = None
    flip: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()
    body: Body | None = None


class Data(Table):
    """A recipe's ``data`` table: where the images are and what their voxels mean.

    Attributes:
        file: an .npz file below the data folder, whose arrays the images are. Without it they
            are NIfTI, .npy and picture files, each a subject, which are read as a translation
            reads them: axes, spacing and normalisation as the ``card`` table says.
        source, target: arrays of ``file``, or files below the data folder; a recipe that is
            trained on a user's folders alone needs none.
        maximum: value of ``file`` that is white; needed with ``file``.
        crop: spatial size that is cut from the middle of the images of ``file``.
        size: spatial size that single files' images are cut or padded to.
        foreground: images with a smaller share of voxels above a tenth of white are left out.
        held_out: subjects of either domain whose images are left out, to be tested on.

    The others, of either domain, are as ``DomainImages`` has them.
    """

    file: Annotated[str, Field(min_length=1), AfterValidator(_below)] | None = None
    source: Names | None = None
    target: Names | None = None
    maximum: Annotated[float, Field(gt=0)] | None = None
    crop: Size | None = None
    size: Size | None = None
    foreground: Annotated[float, Field(ge=0, le=1)] = 0.0
    held_out: Names | None = None
    source_labels: Names | None = None
    target_labels: Names | None = None
    source_subjects: Names | None = None
    target_subjects: Names | None = None
    source_patients: Names | None = None
    target_patients: Names | None = None
    source_slices: tuple[Annotated[int, Field(ge=0)], Count] | None = None
    target_slices: tuple[Annotated[int, Field(ge=0)], Count] | None = None
    source_flip: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()
    target_flip: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()
    source_body: Body | None = None
    target_body: Body | None = None

    def of(self, domain: Domain) -> DomainImages:
        """What the table says of one domain.

        Raises:
            ValueError: it names no images.
        """
        names = getattr(self, domain)
        if names is None:
            raise ValueError(f"[data] names no images of the {domain}: give folders of your own")
        return DomainImages(names=names, **self._options(domain))

    def _options(self, domain: Domain) -> dict[str, Any]:
        fields = DomainImages.model_fields.keys() - {"names"}
        return {name: getattr(self, f"{domain}_{name}") for name in fields}

    @model_validator(mode="after")
    def _check(self) -> Data:
        if self.file is not None and self.maximum is None:
            raise ValueError("file needs maximum, the value that is white")
        if (self.source_labels is None) != (self.target_labels is None):
            raise ValueError("source_labels and target_labels are needed together; got one")
        if (self.source is None) != (self.target is None):
            raise ValueError("source and target are needed together; got one")
        for domain in DOMAINS:
            if self.source is not None:
                self._check_domain(domain)
            elif self.file is not None or any(self._options(domain).values()):
                raise ValueError(f"what is said of the {domain} needs its images: {domain} = [...]")
        return self

    def _check_domain(self, domain: Domain) -> None:
        images = self.of(domain)
        if images.patients and images.subjects:
            raise ValueError(f"{domain}_patients is given in place of {domain}_subjects; got both")
        if self.file is None and (images.patients or images.subjects):
            raise ValueError(
                f"{domain}_patients and {domain}_subjects are of arrays of file; "
                "without it each file is a subject"
            )
        for option in ("labels", "subjects", "patients"):
            names = getattr(images, option)
            if names and len(names) != len(images.names):
                raise ValueError(
                    f"{domain}_{option} must name {len(images.names)} arrays or files; "
                    f"got {list(names)}"
                )
        if images.slices and not images.slices[0] < images.slices[1]:
            raise ValueError(f"{domain}_slices: expected first < stop; got {list(images.slices)}")
        if self.file is None:
            for path in (*images.names, *(images.labels or ())):
                _below(path)
        elif self.held_out and not (images.subjects or images.patients):
            raise ValueError(f"held_out needs to know whose the images of the {domain} are")


class StageSettings(Table):
    """How a network is trained.

    Attributes:
        steps: of the optimisation.
        batch: samples of a step.
        learning_rate: the largest, of AdamW; it decays by a cosine.
        warmup: steps in which it rises from 0.
        weight_decay: of AdamW.
        ema: decay of the weights' moving average, which is what is kept.
        gradient_norm: each batch's gradient is cut to it.
        precision: of the network; a "float16" loss is scaled.
        checkpoint_every: steps.
        accumulation: parts that a batch is computed in, one after the other.
    """

    steps: Count
    batch: Samples
    learning_rate: Annotated[float, Field(gt=0, le=1000)]
    warmup: Annotated[int, Field(ge=0, le=10**9)]
    weight_decay: Annotated[float, Field(ge=0, le=1000)]
    ema: Annotated[float, Field(ge=0, lt=1)]
    gradient_norm: Annotated[float, Field(gt=0, le=1e9)]
    precision: Precision
    checkpoint_every: Count
    accumulation: Samples = 1


class StructureSettings(StageSettings):
    """A recipe's ``structure`` table: the training of a structure map by back-translation.

    Attributes:
        base: the fixed map that both domains share at the beginning.
        base_steps: of the first network; ``steps`` are those of each network of a round.
        rounds: of back-translation.
        jitter: the random change of the inputs' intensity.
        accept: the agreement with the beginning, a correlation, that is asked for; the base map
            is taken where there is less. None asks for nothing.
    """

    base: StructureOptions
    base_steps: Count
    rounds: Count
    jitter: RandomIntensity
    accept: Annotated[float, Field(ge=-1, le=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> StructureSettings:
        kind = STRUCTURE_MAPS[self.base.name]
        if kind.learned or kind.needs_labels:
            raise ValueError(
                f"base: expected a map that is neither learned nor made of labels; "
                f"got {self.base.name!r}"
            )
        return self

    @property
    def stage(self) -> StageSettings:
        """The settings of each of its networks."""
        return StageSettings(**self.model_dump(include={*StageSettings.model_fields}))


class DiffusionSettings(StageSettings):
    """A recipe's ``diffusion`` table: the training of the denoiser.

    Attributes:
        condition_dropout: share of samples whose condition is dropped, for guidance.
        patch: spatial size of patches that are cut at random from images too large to train on
            whole.
    """

    condition_dropout: Annotated[float, Field(ge=0, le=1)]
    patch: Size | None = None


class RegistrationSettings(StageSettings):
    """A recipe's ``registration`` table: the training of the velocity network.

    Attributes:
        nearest: targets to draw from for each source, at most.
        transport: in its place, draw from the optimal transport of labelled shapes: the weight
            of its entropy, as a share of the median squared distance.
        labels: values of the label maps that come with the images, whose overlap is then the
            objective's structure term, in place of the model's own map. They teach the
            velocities, and a translation needs none.
        noise_steps: largest diffusion step of the denoiser's noise estimate.
        augmentation: a random deformation of its own; None takes the recipe's.
        weights: of the objective's terms.
    """

    nearest: Count | None = None
    transport: Annotated[float, Field(ge=1e-6, le=1e6)] | None = None
    labels: DifferentLabels | None = None
    noise_steps: Count
    augmentation: RandomDeformation | None = None
    weights: RegistrationObjective

    @model_validator(mode="after")
    def _check(self) -> RegistrationSettings:
        if (self.nearest is None) == (self.transport is None):
            raise ValueError("registration takes one of nearest and transport")
        return self


class Recipe(Table):
    """A recipe, one field a table.

    Attributes:
        name: the recipe's name, also the model's and its file's.
        data: where the images are and what their voxels mean.
        model: architecture and default sampling.
        augmentation: the random deformation.
        structure: training of the structure map, where it is a learned one.
        diffusion: training of the denoiser.
        registration: training of the velocity network.
        card: how images are read, licence, citation and description, for the model's card.
    """

    name: Annotated[str, AfterValidator(_one_part)]
    data: Data
    model: ModelConfiguration
    augmentation: RandomDeformation
    structure: StructureSettings | None = None
    diffusion: DiffusionSettings
    registration: RegistrationSettings
    card: Card

    def changed(self, **tables: Mapping[str, Any] | str | None) -> Recipe:
        """The same recipe with other values.

        Args:
            **tables: for each table that changes, its keys that do and their values; None for
                a key or a table that is taken away. ``name`` is the recipe's.

        Raises:
            ValueError: the result is no recipe.
        """
        content = self.model_dump(mode="json", exclude_unset=True)
        for name, changes in tables.items():
            if isinstance(changes, Mapping):
                table = {**content.get(name, {}), **changes}
                content[name] = {key: value for key, value in table.items() if value is not None}
            else:
                content[name] = changes
        present = {name: table for name, table in content.items() if table is not None}
        return Recipe.read(present, f"recipe {self.name}")

    @property
    def needs_labels(self) -> bool:
        """Whether its training needs the images' label maps."""
        return self.registration.labels is not None or self.model.needs_labels

    @property
    def stages(self) -> dict[str, StageSettings]:
        """The tables that train networks, by their names."""
        learned = {} if self.structure is None else {"structure": self.structure.stage}
        return {**learned, "diffusion": self.diffusion, "registration": self.registration}

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        self._check_sizes()
        map_name = self.model.structure.name
        if STRUCTURE_MAPS[map_name].learned != (self.structure is not None):
            raise ValueError(
                "a table [structure] belongs to a structure map that is learned, and to no other; "
                f"the map is {map_name!r}"
            )
        if self.registration.transport is not None and not self.needs_labels:
            raise ValueError("[registration] transport pairs labelled shapes: say by which labels")
        if self.registration.noise_steps > self.model.schedule.steps:
            raise ValueError(
                f"[registration] noise_steps: expected at most {self.model.schedule.steps}, the "
                f"steps of the model's schedule; got {self.registration.noise_steps}"
            )
        return self

    def _check_sizes(self) -> None:
        ndim, data, patch = self.model.ndim, self.data, self.diffusion.patch
        if self.card.ndim not in (None, ndim):
            raise ValueError(f"[card] ndim: expected {ndim}, as the model's; got {self.card.ndim}")
        for key, size in (
            ("[data] crop", data.crop),
            ("[data] size", data.size),
            ("[diffusion] patch", patch),
        ):
            if size is not None and len(size) != ndim:
                raise ValueError(
                    f"{key}: expected {ndim} numbers, the model's axes; got {list(size)}"
                )
        for domain in DOMAINS:
            if any(axis >= ndim for axis in getattr(data, f"{domain}_flip")):
                raise ValueError(f"[data] {domain}_flip: expected axes below {ndim}")
        whole = data.crop if data.file is not None else data.size
        if patch and whole and any(cut > n for cut, n in zip(patch, whole, strict=True)):
            raise ValueError(
                f"[diffusion] patch: expected at most the images' {list(whole)}; got {list(patch)}"
            )


def shipped_recipes() -> dict[str, Path]:
    """Name and file of each recipe that comes with the package."""
    folder = Path(__file__).parent.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a shipped recipe by its name, or any by its path.

    Raises:
        FileNotFoundError: no such recipe.
        ValueError: the file is not TOML, or its tables are not a recipe's: the error names each
            table and key that is wrong, what was expected and what was got.
    """
    shipped = shipped_recipes()
    path = shipped.get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        raise FileNotFoundError(
            f"no recipe {str(name_or_path)!r}: neither a file nor one of {', '.join(shipped)}"
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a TOML recipe: {error}") from error
    return Recipe.read({"name": path.stem, **content}, str(path))
