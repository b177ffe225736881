"""Training: recipes, unpaired data, and resumable stages, on one process or several."""

from plasticine.training.reading import load_domains
from plasticine.training.recipe import Recipe, load_recipe, shipped_recipes
from plasticine.training.train import train

__all__ = ["Recipe", "load_domains", "load_recipe", "shipped_recipes", "train"]
