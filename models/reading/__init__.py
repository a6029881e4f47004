"""Find and open models: hub ids, folders, GGUF files, quantised folders, tokenizers."""
