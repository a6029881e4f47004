"""Parts of the link prune: masks, and structured removal of units."""
