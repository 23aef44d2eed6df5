"""What fine-tuning made: read from its folder, put beside a model that runs, or merged into its weights."""

from chatglm3.adapters.load import BASE_FILE, check_base, read_adapter, write_base
from chatglm3.adapters.merge import merge
from chatglm3.adapters.stored import StoredLora
from chatglm3.lora import Lora
from chatglm3.prefix import Prefix, write_prefix

Adapter = Prefix | Lora
"""What the engine answers a request with, besides the model."""

__all__ = [
    "BASE_FILE",
    "Adapter",
    "Lora",
    "Prefix",
    "StoredLora",
    "check_base",
    "merge",
    "read_adapter",
    "write_base",
    "write_prefix",
]
