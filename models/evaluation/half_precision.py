"""Whether a model that is stored in float16 can be computed in it."""

from __future__ import annotations

import torch

from ...checkpoints import Checkpoint
from ...errors import ModelError
from ..blocks.device import default_device, judged_dtype
from ..blocks.empty_model import text_config
from ..blocks.replay import capture, check_finite, logits, through_blocks
from ..blocks.skeleton import Skeleton

_TOKENS = 8  # activations that overflow do so within a few tokens


def check_half(checkpoint: Checkpoint) -> None:
    """Run a few random tokens in float16 through a model that is stored in it; skip any other.

    Raises:
        NumericsError: NaN or infinity in a block's output or in the logits.
        ModelError: torch cannot compute something of the model in float16 here.
    """
    if judged_dtype(checkpoint, default_device()) != torch.float16:
        return
    vocabulary = int(text_config(checkpoint).vocab_size)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (1, _TOKENS), generator=generator)
    skeleton = Skeleton(checkpoint, dtype=torch.float16)
    try:
        hidden = through_blocks(skeleton, capture(skeleton, [tokens]))
        check_finite([logits(skeleton, tokens, hidden[0])], "the output head")
    except RuntimeError as error:
        if "Half" not in str(error):
            raise
        raise ModelError(
            f"'{checkpoint.source}' cannot be run in float16 here ({error}); use "
            f"load(dtype='bfloat16')"
        ) from error
