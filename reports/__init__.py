"""What people and programs read of a run: the model card, the provenance record."""
