"""Weight-only quantization: one file per scheme, a plain layout on disk, packed for the device at load."""

from chatglm3.quant.modules import QuantEmbedding, QuantizedWeight, QuantLinear
from chatglm3.quant.policy import (
    SCHEMES,
    QuantConfig,
    is_quantized,
    packing_bytes,
    prepare_model,
    quantize_embedding,
    quantize_linear,
    quantize_model,
    quantize_structure,
)
from chatglm3.quant.scheme import Scheme

__all__ = [
    "SCHEMES",
    "QuantConfig",
    "QuantEmbedding",
    "QuantLinear",
    "QuantizedWeight",
    "Scheme",
    "is_quantized",
    "packing_bytes",
    "prepare_model",
    "quantize_embedding",
    "quantize_linear",
    "quantize_model",
    "quantize_structure",
]
