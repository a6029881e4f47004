"""Healing: blockwise, whole-model and adapter training with masks kept."""
