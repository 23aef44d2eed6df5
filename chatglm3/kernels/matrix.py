"""A quantized weight in the form that the native kernels read."""

from __future__ import annotations

import contextlib
import mmap
import threading

import torch
from torch import Tensor

from chatglm3.kernels.library import Native
from chatglm3.kernels.structures import INT4, INT8, LANES, Matrix

_FORMATS = {4: INT4, 8: INT8}

_LARGE = 4 << 20
"""Bytes from which on memory is asked for in pages of 2 MiB."""


class PackedMatrix:
    """Group-wise int4 or int8 codes, packed in blocks of 16 rows (`src/kernels.h` has the layout).

    Activations are brought into int8 with one scale for each group of columns, dot products within a group
    are exact, and groups are summed in float32.
    """

    def __init__(
        self, native: Native, bits: int, group_size: int, *, qweight: Tensor, scales: Tensor, columns: int
    ) -> None:
        """qweight, scales: the plain tensors of `chatglm3.quant.groupwise`, on the CPU; not kept."""
        rows, groups = scales.shape
        blocks = -(-rows // LANES)
        self.native = native
        self._plain_shapes = qweight.shape, scales.shape
        self._plain_dtype = qweight.dtype
        self.weight = _empty(blocks * LANES * qweight.shape[1] * qweight.itemsize)
        self.scales = torch.empty(blocks, groups, LANES, dtype=torch.bfloat16)
        self.matrix = Matrix(
            weight=self.weight.data_ptr(),
            scales=self.scales.data_ptr(),
            rows=rows,
            columns=columns,
            format=_FORMATS[bits],
            group_size=group_size,
        )
        """Points into `weight` and `scales`."""
        qweight, scales = qweight.contiguous(), scales.contiguous()
        native.pack(
            native.kernels, self.matrix, qweight.data_ptr(), scales.data_ptr(), torch.get_num_threads()
        )

    def matmul(self, x: Tensor) -> Tensor:
        """x [tokens, columns] to [tokens, rows], in the dtype of x."""
        values = x.float().contiguous()
        out = torch.empty(len(x), self.matrix.rows)
        workspace = _workspace(self.native)
        threads = torch.get_num_threads()
        if not self.native.multiply(
            workspace, self.matrix, values.data_ptr(), len(x), threads, out.data_ptr()
        ):
            raise MemoryError(f"no memory is left to multiply {len(x)} tokens")
        return out.to(x.dtype)

    def unpack(self) -> dict[str, Tensor]:
        """The plain tensors it was made from, bit for bit."""
        codes, scales = self._plain_shapes
        plain = {
            "qweight": torch.empty(codes, dtype=self._plain_dtype),
            "scales": torch.empty(scales, dtype=torch.bfloat16),
        }
        self.native.unpack(
            self.native.kernels,
            self.matrix,
            plain["qweight"].data_ptr(),
            plain["scales"].data_ptr(),
            torch.get_num_threads(),
        )
        return plain

    def __deepcopy__(self, memo: object) -> PackedMatrix:
        """Itself: nothing changes it."""
        return self


def _empty(size: int) -> Tensor:
    """Bytes in large pages where the system has them: fewer faults in packing, fewer misses in reading."""
    if size < _LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size, dtype=torch.uint8)
    pages = mmap.mmap(-1, size)
    with contextlib.suppress(OSError):  # a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)


def packed_bytes(qweight: Tensor, scales: Tensor) -> int:
    """Memory of the packed form of these plain tensors; they may be on the meta device."""
    filled = -(-len(scales) // LANES) * LANES
    return (qweight.nbytes + scales.nbytes) // max(1, len(scales)) * filled


class Workspace:
    """Memory that native calls share; used by one thread at a time."""

    def __init__(self, native: Native) -> None:
        self._native = native
        self.handle: int = native.workspace(native.kernels)

    def __del__(self) -> None:
        self._native.workspace_free(self.handle)


_LOCAL = threading.local()


def _workspace(native: Native) -> int:
    """The calling thread's workspace for these kernels."""
    known: dict[str, Workspace] = _LOCAL.__dict__.setdefault("workspaces", {})
    if native.name not in known:
        known[native.name] = Workspace(native)
    return known[native.name].handle
