"""Parts of the link save: choice of format, acceptance checks, GGUF files."""
