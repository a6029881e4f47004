"""A transformers model as a stack of blocks: built empty, filled and replayed block by block."""
