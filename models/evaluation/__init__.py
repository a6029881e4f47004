"""Measure models: perplexity and KL, size, speed in a fresh process, proof of a saved folder."""
