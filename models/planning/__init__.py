"""Estimate memory, disk and time from a config before any weight is loaded."""
