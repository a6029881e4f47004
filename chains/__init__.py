"""Whole chains: the predefined ones, settings changed by name, and recipes in YAML."""

from ..links.waves import waves
from .library import LINKS
from .overrides import configure, parse_assignment
from .predefined import CHAINS, ChainMaker, bird_bone, fit, one_shot, quantize_only
from .recipes.build import build
from .recipes.dump import dump
from .recipes.recipe import Recipe, load_recipe

__all__ = [
    "CHAINS",
    "LINKS",
    "ChainMaker",
    "Recipe",
    "bird_bone",
    "build",
    "configure",
    "dump",
    "fit",
    "load_recipe",
    "one_shot",
    "parse_assignment",
    "quantize_only",
    "waves",
]
