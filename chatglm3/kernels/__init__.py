"""Native kernels for the CPU: C++ in `src/`, compiled when the package is installed, called through ctypes.

Without a compiler, or on another processor, everything runs on PyTorch: `choose().reason` says why.
Kernels for CUDA are in `triton/`.
"""

from chatglm3.kernels.library import LEVELS, Choice, Native, choose

__all__ = ["LEVELS", "Choice", "Native", "choose"]
