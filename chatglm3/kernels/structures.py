"""The structures of `src/kernels.h` and `src/network.h`, for ctypes: the same fields in the same order."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p

FLOAT32, BFLOAT16, FLOAT16, INT4, INT8 = range(5)
"""`Format`: how numbers are held."""

LANES = 16
"""Rows of a packed block."""


class Matrix(Structure):
    """A weight [rows, columns]; `src/kernels.h` describes its memory."""

    _fields_ = [
        ("weight", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
        ("rows", c_int64),
        ("columns", c_int64),
        ("format", c_int32),
        ("group_size", c_int32),
    ]


class LayerWeights(Structure):
    """The weights of one layer."""

    _fields_ = [
        ("qkv", Matrix),
        ("attention_out", Matrix),
        ("gate_up", Matrix),
        ("down", Matrix),
        ("attention_norm", c_void_p),
        ("ffn_norm", c_void_p),
    ]


class NetworkWeights(Structure):
    """All layers, the final norm, and the rotary tables."""

    _fields_ = [
        ("layers", POINTER(LayerWeights)),
        ("final_norm", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("num_layers", c_int64),
        ("hidden", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("ffn", c_int64),
        ("rotary", c_int64),
        ("norm_eps", c_float),
    ]


class Cache(Structure):
    """Where keys and values of each layer lie."""

    _fields_ = [
        ("keys", POINTER(c_void_p)),
        ("values", POINTER(c_void_p)),
        ("block_size", c_int64),
        ("format", c_int32),
    ]


class Batch(Structure):
    """The tensors of an `AttentionBatch`."""

    _fields_ = [
        ("positions", c_void_p),
        ("slots", c_void_p),
        ("query_starts", c_void_p),
        ("context_lens", c_void_p),
        ("block_tables", c_void_p),
        ("tokens", c_int64),
        ("sequences", c_int64),
        ("table_stride", c_int64),
    ]
