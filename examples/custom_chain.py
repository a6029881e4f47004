"""A chain of one's own: a link written here, a plain function among the links, and watchers.

python examples/custom_chain.py HuggingFaceTB/SmolLM2-135M light/
"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any, TypedDict

from pydantic import Field

from birdbone import Chain, link, run
from birdbone.contexts.flow import Scored
from birdbone.links import calibrate, load, profile, prune, quantize, save, score, validate
from birdbone.middleware import GpuMemory, Progress, Timing


class Ranked(TypedDict):
    """``most_loaded``: names of the linears that carry most, the most loaded first."""

    most_loaded: list[str]


@link
async def rank(ctx: Scored, *, top: Annotated[int, Field(ge=1)] = 5) -> Ranked:
    """Name the linears that carry most; settings and order are checked as for any other link."""
    linears = ctx["scores"].linears
    ranked = sorted(linears, key=lambda name: linears[name].load, reverse=True)
    return {"most_loaded": ranked[:top]}


async def tell(ctx: dict[str, Any]) -> dict[str, Any]:
    """Any async function from context to context is a link too."""
    print("carrying most:", ", ".join(ctx["most_loaded"]))
    return ctx


def custom_chain(model: str, out: str) -> Chain:
    chain = Chain(
        load(model=model),
        calibrate(windows=16, heldout_windows=8, elsewhere_windows=8),
        profile(),
        score(),
        rank(top=3),
        tell,
        prune(sparsity=0.3, allocation="load"),
        quantize(bits=8),
        validate(max_rise=0.2),
        save(path=out),
    )
    chain.use(Progress())
    chain.use(Timing())
    chain.use(GpuMemory())
    return chain


async def main(model: str, out: str) -> None:
    result = await run(custom_chain(model, out))
    verdict = result["verdict"]
    for judged in verdict.texts.values():
        dense, light = judged.dense.value, judged.light.value
        print(f"perplexity {dense:.2f} dense, {light:.2f} light on {judged.text}")
    print(f"saved in {result['saved'].path}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
