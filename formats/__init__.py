"""Files of other runtimes: GGUF, and llama.cpp in a fresh process."""
