"""Training: recipes, unpaired data, and the two resumable stages."""

from plasticine.training.recipe import Recipe, load_recipe, shipped_recipes
from plasticine.training.train import train

__all__ = ["Recipe", "load_recipe", "shipped_recipes", "train"]
