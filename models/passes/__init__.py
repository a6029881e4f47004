"""Passes over the blocks: input statistics, weight replacement, block tuning, resume."""
