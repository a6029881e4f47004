"""Whole chains: the predefined ones, settings changed by name, and recipes in YAML."""

from .building import build
from .dumping import dump
from .library import LINKS
from .overrides import configure, parse_assignment
from .predefined import CHAINS, ChainMaker, bird_bone, one_shot, quantize_only
from .recipes import Recipe, load_recipe
from .waves import waves

__all__ = [
    "CHAINS",
    "LINKS",
    "ChainMaker",
    "Recipe",
    "bird_bone",
    "build",
    "configure",
    "dump",
    "load_recipe",
    "one_shot",
    "parse_assignment",
    "quantize_only",
    "waves",
]
