from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.version import Version

from birdbone.solvers import column_loop
from birdbone.solvers.column_loop import ColumnRule, uses_triton
from birdbone.solvers.gptq import _Rounding, quantize_gptq
from birdbone.solvers.gram import Gram
from birdbone.solvers.grid import Grid
from birdbone.solvers.masks import Pattern
from birdbone.solvers.sparsegpt import _GroupSelection, prune_sparsegpt

INTERPRETED = Path(__file__).with_name("triton_interpreted.py")
ON_GPU = SimpleNamespace(is_cuda=True, dtype=torch.float32)

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


class Planned(ColumnRule):
    plans_blocks = True


@needs_triton
def test_under_the_interpreter_it_is_the_torch_path(pytestconfig, tmp_path) -> None:
    if Version(version("triton")) < Version("3.9"):
        pytest.skip("before 3.9 Triton's interpreter rounds a fused multiply-add twice")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(INTERPRETED)]
    # Read when triton is imported, which another test of this process may have done.
    env = {**os.environ, "TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        command, env=env, cwd=pytestconfig.rootpath, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_triton
@pytest.mark.parametrize(
    ("types", "group"),
    [
        ({"kept": "*u8"}, 0),
        ({"kept": "*u8"}, 4),
        ({"scale": "*fp16", "zero_point": "*i8", "codes": "*i8", "places": "*i64"}, 0),
    ],
)
def test_it_compiles_to_exact_arithmetic(monkeypatch, tmp_path, types, group) -> None:
    """What the interpreter cannot tell: no GPU is needed to compile for one."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assembly = compiled(types, NUM_KEPT=group // 2, GROUP=group, ROWS=16, BLOCK=128)
    assert assembly.count("fma.rn.f32") == 16 * 128 // 32  # the update, and nothing contracted
    assert "div.full" not in assembly
    assert ("div.rn.f32" in assembly) == (group > 0 or "scale" in types)


def compiled(types: dict[str, str], **constants: int) -> str:
    """Return the PTX of the kernel; pointers not named in ``types`` are None."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from birdbone.solvers.triton_loop import _settle_block as kernel

    always = dict.fromkeys(("columns", "errors", "coefficients", "diagonal"), "*fp32")
    always |= dict.fromkeys(("start", "num_columns", "num_rows", "group_size"), "i32")
    always |= {"smallest": "fp32", "largest": "fp32"} | types
    signature = {name: always.get(name, "constexpr") for name in kernel.arg_names}
    fixed = {
        (place,): constants.get(name)
        for place, name in enumerate(kernel.arg_names)
        if name not in always
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
    options = {"num_warps": 1, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options).asm["ptx"]


def test_the_kernel_is_taken_for_float32_on_cuda_where_triton_is(monkeypatch) -> None:
    monkeypatch.setattr(column_loop, "find_spec", lambda name: name)
    assert uses_triton(ON_GPU, Planned())
    assert not uses_triton(SimpleNamespace(is_cuda=True, dtype=torch.float64), Planned())
    assert not uses_triton(torch.zeros(2, 2), Planned())
    monkeypatch.setattr(column_loop, "find_spec", lambda name: None)
    assert not uses_triton(ON_GPU, Planned())


@pytest.mark.parametrize(
    ("pattern", "planned"), [((2, 4), True), ((5, 12), False), ((32, 64), False)]
)
def test_groups_of_2_to_32_are_chosen_on_chip(monkeypatch, pattern, planned) -> None:
    monkeypatch.setattr(column_loop, "find_spec", lambda name: name)
    rule = _GroupSelection(torch.empty(192, 2, dtype=torch.bool), torch.eye(192), *pattern)
    assert uses_triton(ON_GPU, rule) == planned


@pytest.mark.parametrize(
    ("group_size", "planned"), [(None, True), (256, True), (192, False), (64, False)]
)
def test_groups_that_start_inside_a_block_are_not_rounded_on_chip(
    monkeypatch, group_size, planned
) -> None:
    monkeypatch.setattr(column_loop, "find_spec", lambda name: name)
    rule = _Rounding(torch.zeros(768, 2), Grid(4, group_size), torch.float32, None)
    assert uses_triton(ON_GPU, rule) == planned


def test_a_rule_that_plans_nothing_says_so() -> None:
    class Unplanned(ColumnRule):
        pass

    assert not Unplanned().plans_blocks
    with pytest.raises(NotImplementedError, match="Unplanned decides column by column"):
        Unplanned().plan(0, torch.zeros(1, 1))


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("rows", "cols"), [(33, 200), (1024, 1536)])
class TestOnCuda:
    """Alike to rounding: but a row in which a near tie falls the other way goes on from there."""

    @pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4:8"])
    def test_pruning(self, monkeypatch, make_layer, rows, cols, pattern) -> None:
        weight, gram = on_cuda(make_layer(rows, cols, tokens=2 * cols))
        sparsity = 0.5 if pattern == "unstructured" else None
        on_chip, usual = both_ways(
            monkeypatch,
            lambda: prune_sparsegpt(
                weight, gram, sparsity=sparsity, pattern=Pattern.parse(pattern)
            ),
        )
        rows_alike = (on_chip.mask == usual.mask).all(dim=1)
        assert rows_alike.float().mean() > 0.98
        torch.testing.assert_close(
            on_chip.weight[rows_alike], usual.weight[rows_alike], atol=1e-3, rtol=1e-3
        )
        assert on_chip.relative_error == pytest.approx(usual.relative_error, rel=1e-4)

    @pytest.mark.parametrize(("order", "symmetric"), [("static", True), ("natural", False)])
    def test_rounding(self, monkeypatch, make_layer, rows, cols, order, symmetric) -> None:
        weight, gram = on_cuda(make_layer(rows, cols, tokens=2 * cols))
        grid = Grid(4, 8 if order == "static" else None, symmetric)
        on_chip, usual = both_ways(
            monkeypatch, lambda: quantize_gptq(weight, gram, grid=grid, order=order)
        )
        assert (on_chip.codes == usual.codes).all(dim=1).float().mean() > 0.9
        assert torch.equal(on_chip.scales, usual.scales)
        assert on_chip.relative_error == pytest.approx(usual.relative_error, rel=1e-3)


def on_cuda(layer):
    return layer.weight.float().cuda(), Gram(
        layer.gram.matrix.float().cuda(), layer.gram.num_tokens
    )


def both_ways(monkeypatch, solve):
    """Return what the kernel makes and what the torch path makes of the same layer."""
    on_chip = solve()
    monkeypatch.setattr(column_loop, "uses_triton", lambda columns, rule: False)
    return on_chip, solve()
