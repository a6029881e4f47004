"""Structured removal: feed-forward neurons, key/value groups, experts and whole layers."""
