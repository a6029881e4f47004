"""What holds for every test: no network, and nothing decided by how many cores there are."""

import os

# Read once, when huggingface_hub and tokenizers are imported, so set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
