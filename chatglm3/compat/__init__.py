"""A drop-in for the code of the published README: only the import changes.

from chatglm3 import AutoModel, AutoTokenizer   # instead of: from transformers import ...
"""

from chatglm3.compat.config import ChatGLMConfig
from chatglm3.compat.model import ChatGLMForConditionalGeneration
from chatglm3.compat.tokenizer import BatchEncoding, ChatGLMTokenizer

AutoConfig = ChatGLMConfig
AutoTokenizer = ChatGLMTokenizer
AutoModel = AutoModelForCausalLM = ChatGLMForConditionalGeneration

__all__ = [
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "BatchEncoding",
    "ChatGLMConfig",
    "ChatGLMForConditionalGeneration",
    "ChatGLMTokenizer",
]
