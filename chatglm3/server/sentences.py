"""Embeddings from a sentence-transformers model, which was trained for them, beside the chat model's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from chatglm3.errors import ChatGLM3Error
from chatglm3.server.errors import ApiError

_AT_ONCE = 32
"""Texts that are embedded together; a client that has gone is noticed in between."""


class SentenceModel:
    """A sentence-transformers model. Belongs to one event loop, and works in other threads.

    source: a folder, or a name on the Hugging Face Hub; code that comes with weights is not run.
    names: what clients may give as `model`.
    Raises ChatGLM3Error if sentence-transformers is missing, or cannot load the model.
    """

    def __init__(self, source: str, names: Sequence[str], device: str | None = None) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ChatGLM3Error(
                f"an embedding model needs {error.name}; install it with: pip install 'chatglm3[embeddings]'"
            ) from None
        try:
            self._model = SentenceTransformer(source, device=device, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ChatGLM3Error(
                f"{source!r} cannot be loaded as a sentence-transformers model: {error}"
            ) from error
        size, max_tokens = self._model.get_embedding_dimension(), self._model.max_seq_length
        if size is None or max_tokens is None:
            raise ChatGLM3Error(f"{source!r} does not say how long its vectors and texts may be")
        self.names = tuple(names)
        self.size = size
        """Numbers in a vector."""
        self.max_tokens = max_tokens
        """Longest text in tokens; longer ones would be cut by sentence-transformers without a word."""
        self._turn = asyncio.Lock()

    async def count(self, texts: Sequence[str]) -> int:
        """Tokens of all texts. Raises ApiError if one is too long."""
        lengths = await asyncio.to_thread(self._lengths, texts)
        for number, length in enumerate(lengths):
            if length > self.max_tokens:
                raise ApiError(
                    400,
                    f"text {number} has {length} tokens, and {self.names[0]!r} takes {self.max_tokens}; "
                    "split it",
                    param="input",
                    code="context_length_exceeded",
                )
        return sum(lengths)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector of length 1 for each text."""
        vectors: list[list[float]] = []
        for start in range(0, len(texts), _AT_ONCE):
            async with self._turn:
                vectors += await asyncio.to_thread(self._vectors, texts[start : start + _AT_ONCE])
        return vectors

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        ids = self._model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        return list(map(len, ids))

    def _vectors(self, texts: Sequence[str]) -> list[list[float]]:
        vectors = self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        result: list[list[float]] = vectors.tolist()
        return result
