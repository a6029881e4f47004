"""How other libraries store weights: compressed-tensors, bitsandbytes, PEFT, GGUF headers."""
