"""Translation: a source image to the target domain, with the trace of every pixel."""

from plasticine.translation.model import (
    ModelError,
    TranslationModel,
    load_model,
    save_model,
    shipped_models,
)
from plasticine.translation.sampling import Sampling
from plasticine.translation.trace import Trace
from plasticine.translation.translator import Translator

__all__ = [
    "ModelError",
    "Sampling",
    "Trace",
    "TranslationModel",
    "Translator",
    "load_model",
    "save_model",
    "shipped_models",
]
