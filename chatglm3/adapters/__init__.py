"""What fine-tuning made, on disk and on its way to the engine: LoRA updates and P-Tuning prefixes."""

from chatglm3.lora import Lora
from chatglm3.prefix import Prefix, write_prefix

Adapter = Prefix | Lora
"""What the engine answers a request with, besides the model."""

__all__ = ["Adapter", "Lora", "Prefix", "write_prefix"]
