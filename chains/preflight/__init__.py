"""Walk a chain on the config alone: what it needs, and whether it fits."""
