"""Structure maps: what of an image the translator must keep.

A structure map S turns an image into channels that hold its anatomy and, as far as the
map can, not its contrast: the denoiser is conditioned on S of the target domain in
training and on S of the source, carried by the deformation, in translation.

``create`` builds one by name, so that a recipe or a model file can say which it uses.
"""

from plasticine.structure.back_translation import BackTranslation
from plasticine.structure.contour import Contour
from plasticine.structure.kmeans import KMeans
from plasticine.structure.labels import Labels
from plasticine.structure.mind import MIND
from plasticine.structure.multi_otsu import MultiOtsu
from plasticine.structure.structure_map import StructureMap

STRUCTURE_MAPS: dict[str, type[StructureMap]] = {
    "mind": MIND,
    "kmeans": KMeans,
    "multi-otsu": MultiOtsu,
    "contour": Contour,
    "labels": Labels,
    "back-translation": BackTranslation,
}


def create(name: str, ndim: int, **options: object) -> StructureMap:
    """Build the structure map called ``name`` for images of ``ndim`` axes.

    Args:
        name: one of ``STRUCTURE_MAPS``.
        ndim: spatial axes of the images, 2 or 3.
        **options: the map's own options, as its class documents them.

    Raises:
        ValueError: the name is not one of them, or ndim is not 2 or 3.
        TypeError: an option is not one of the map's.
    """
    if name not in STRUCTURE_MAPS:
        raise ValueError(
            f"structure map must be one of {', '.join(sorted(STRUCTURE_MAPS))}; got {name!r}"
        )
    return STRUCTURE_MAPS[name](ndim, **options)


__all__ = [
    "MIND",
    "STRUCTURE_MAPS",
    "BackTranslation",
    "Contour",
    "KMeans",
    "Labels",
    "MultiOtsu",
    "StructureMap",
    "create",
]
