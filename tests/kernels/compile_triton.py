"""Compile the kernels, as 6b calls them, for a GPU that need not be there. Prints what each takes, as JSON.

python -m tests.kernels.compile_triton 90
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from chatglm3.kernels.triton import attention, elementwise, matmul

INTEGERS = {"words", "query_starts", "context_lens", "block_tables"}
LONGS = {"positions", "slots"}
FLOATS = {"cos", "sin", "parts", "sums"}
SCALARS = {"scale": "fp32", "eps": "fp32"}
COUNTS = {
    *("rows", "columns", "groups", "tokens", "splits", "first_row", "part_rows"),
    *("q_stride", "table_stride", "block_size"),
}


def compiled(kernel, capability, warps, stages, floats=(), **constants):
    """The kernel's registers, stack and shared memory, with pointers and sizes that are multiples of 16."""

    def kind(name):
        if name in constants:
            return "constexpr"
        if name in COUNTS:
            return "i32"
        if name in SCALARS:
            return SCALARS[name]
        width = "i32" if name in INTEGERS else "i64" if name in LONGS else "bf16"
        return "*fp32" if name in FLOATS or name in floats else "*" + width

    names = kernel.arg_names
    signature = {name: kind(name) for name in names}
    aligned = [i for i, name in enumerate(names) if signature[name][0] in "*i" and name != "splits"]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    target = GPUTarget("cuda", capability, 32)
    result = triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return {
        "name": kernel.__name__,
        **constants,
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "stack": int(re.search(r"STACK:(\d+)", usage)[1]),
        "shared": result.metadata.shared,
    }


def main(capability):
    kernels = []
    options = {"GROUP": 32, "ROWS": 64, "WORDS": 32}
    for bits in (4, 8):
        kernels.append(compiled(matmul._vector.fn, capability, 8, 1, BITS=bits, **options))
        kernels.append(compiled(matmul._tile.fn, capability, 4, 4, BITS=bits, TOKENS=16, **options))
    kernels.append(compiled(matmul._dequantize, capability, 4, 3, BITS=4, GROUP=32, ROWS=128, WORDS=16))
    heads = {"KV_HEADS": 2, "GROUP": 16, "GROUP_ROWS": 16, "HEAD_DIM": 128, "ENTRIES": 64}
    for queries, split in ((1, True), (8, False)):
        options = {**heads, "QUERIES": queries, "SPLIT": split}
        floats = ("out",) if split else ()
        kernels.append(compiled(attention._attend, capability, 8 if queries > 1 else 4, 2, floats, **options))
    kernels.append(compiled(attention._merge, capability, 4, 3, HEAD_DIM=128, MOST=64))
    kernels.append(compiled(elementwise._add_rms_norm, capability, 8, 3, HAS_UPDATE=True, WIDTH=4096))
    options = {"HEADS": 32, "KV_HEADS": 2, "HEAD_DIM": 128, "ROTARY": 64, "PAIRS": 64}
    kernels.append(compiled(elementwise._rotate_and_store, capability, 1, 3, **options))
    kernels.append(compiled(elementwise._swiglu, capability, 4, 3, WIDTH=1024))
    print(json.dumps(kernels))


if __name__ == "__main__":
    main(int(sys.argv[1]))
