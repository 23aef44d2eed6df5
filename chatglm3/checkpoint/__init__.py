"""Checkpoints on disk: streamed in from either published layout, and out to either.

`names` is the one table of weight names, `read` gets single tensors out of files, `load` and `save` make
models of folders and folders of models.
"""

from chatglm3.checkpoint.fingerprint import base_fingerprint
from chatglm3.checkpoint.load import Checkpoint, empty_model, load_model, stored_dtype
from chatglm3.checkpoint.names import NameTable
from chatglm3.checkpoint.prefix import load_prefix
from chatglm3.checkpoint.read import StoredTensor, has_weights, stored_tensors, tensors_in
from chatglm3.checkpoint.save import save_model

__all__ = [
    "Checkpoint",
    "NameTable",
    "StoredTensor",
    "base_fingerprint",
    "empty_model",
    "has_weights",
    "load_model",
    "load_prefix",
    "save_model",
    "stored_dtype",
    "stored_tensors",
    "tensors_in",
]
