"""A drop-in for the code of the published README: only the import changes.

    from chatglm3 import AutoModel, AutoTokenizer   # instead of: from transformers import ...

Names and results are the published ones, but for what was wrong there:

- The caller's history is left as it is; go on with the one that is returned.
- An answer that is no tool call is text: no eval, no `not enough values to unpack`, and no answer whose first
  line is taken for a tool's name. A streamed tool call comes when it is complete.
- The last token stays where the length ends an answer.
- `past_key_values` are None: pass the history, and the engine reuses what it has computed.
- Masked tokens have no logits (0) and predict no label; a loss over no label at all is 0.
- An option that cannot be honoured is an error that names it.
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
