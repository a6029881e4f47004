"""Recipes: chains written in YAML."""
