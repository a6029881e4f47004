"""What holds for every test: no network, and nothing decided by how many cores there are."""

import os

# Read once, when huggingface_hub and tokenizers are imported, so set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from hypothesis import settings

# `pytest tests/fuzz --hypothesis-profile=hostile`: many inputs, other ones each time.
settings.register_profile(
    "hostile", settings.get_profile("ci"), max_examples=5000, derandomize=False
)
