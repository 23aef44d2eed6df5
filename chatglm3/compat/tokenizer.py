"""`AutoTokenizer`: the calls of the published `ChatGLMTokenizer`, on our tokenizer and prompt renderer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from chatglm3.compat.folders import find_folder
from chatglm3.compat.replies import Turn
from chatglm3.errors import InvalidParameterError, TokenizerError
from chatglm3.prompt import Message, conversation, encode_message, render
from chatglm3.tokenizer import Tokenizer

TensorType = Literal["pt", "np"] | None
Padding = bool | Literal["longest", "max_length", "do_not_pad"]


class BatchEncoding(dict[str, Any]):
    """`input_ids`, `attention_mask` and `position_ids`, as keys (`**inputs`) and as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"an encoding has {', '.join(self)}, but no {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def to(self, device: str | int | torch.device) -> BatchEncoding:
        """Move the tensors, in place; the encoding itself comes back."""
        for name, value in self.items():
            if not isinstance(value, Tensor):
                raise InvalidParameterError(
                    f"{name} is a {type(value).__name__}; encode with return_tensors='pt'"
                )
            self[name] = value.to(device)
        return self


class ChatGLMTokenizer:
    """The published tokenizer's interface: `tokenizer(text)`, `encode`, `decode`, `build_chat_input`, ...

    encode_special_tokens: read `<|user|>` and the other three role tokens in a text as roles. Off by default;
        leave it off for text that somebody else wrote, who could speak in any role.
    """

    padding_side = "left"
    model_input_names = ("input_ids", "attention_mask", "position_ids")

    def __init__(self, path: str | Path, *, encode_special_tokens: bool = False) -> None:
        self.tokenizer = Tokenizer(path)
        self.encode_special_tokens = encode_special_tokens
        self._path = Path(path)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        trust_remote_code: bool = False,
        revision: str | None = None,
        token: str | None = None,
        encode_special_tokens: bool = False,
    ) -> ChatGLMTokenizer:
        """The tokenizer of a folder, a hub's id, or "nano". No remote code is run, trusted or not."""
        folder = find_folder(name, revision=revision, token=token, weights=False)
        return cls(folder, encode_special_tokens=encode_special_tokens)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `tokenizer.model` and `tokenizer_config.json`."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        source = self._path / "tokenizer.model" if self._path.is_dir() else self._path
        if not (target / "tokenizer.model").exists() or not source.samefile(target / "tokenizer.model"):
            shutil.copyfile(source, target / "tokenizer.model")
        settings = {
            "tokenizer_class": "ChatGLMTokenizer",
            "encode_special_tokens": self.encode_special_tokens,
        }
        (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    # Vocabulary

    @property
    def vocab_size(self) -> int:
        """Pieces and special tokens, without the padding of the embedding."""
        return self.tokenizer.vocab_size

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def pad_token_id(self) -> int:
        """Id that fills a batch on the left."""
        return self.tokenizer.pad_id

    @property
    def unk_token_id(self) -> int:
        """Id of text that has no piece (there is none: bytes are pieces)."""
        return self.tokenizer.unk_id

    @property
    def bos_token_id(self) -> int:
        """SentencePiece's `<s>`; sequences begin with `get_prefix_tokens()` instead."""
        return self.tokenizer.bos_id

    @property
    def eos_token_id(self) -> int:
        """SentencePiece's `</s>`."""
        return self.tokenizer.eos_id

    def get_command(self, token: str) -> int:
        """Id of a special token: `<|user|>`, `[gMASK]`, ..., or `<bos>`, `<eos>`, `<pad>`."""
        commands = {"<bos>": self.bos_token_id, "<eos>": self.eos_token_id, "<pad>": self.pad_token_id}
        commands |= self.tokenizer.special_ids
        if token not in commands:
            raise TokenizerError(f"{token!r} is not a special token; there are {', '.join(commands)}")
        return commands[token]

    def get_prefix_tokens(self) -> list[int]:
        """`[gMASK] sop`."""
        return list(self.tokenizer.prefix_ids)

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text, without the prefix."""
        return [self.tokenizer.id_to_piece(i) for i in self._ids(text)]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Id of a piece or special token, or a list of them."""
        if isinstance(tokens, str):
            return self._piece_ids.get(tokens, self.unk_token_id)
        return [self._piece_ids.get(token, self.unk_token_id) for token in tokens]

    @cached_property
    def _piece_ids(self) -> dict[str, int]:
        pieces = {self.tokenizer.id_to_piece(i): i for i in range(self.vocab_size)}
        return pieces | {"<unk>": self.unk_token_id, "<s>": self.bos_token_id, "</s>": self.eos_token_id}

    def convert_ids_to_tokens(self, ids: int | Iterable[int] | Tensor) -> Any:
        """Piece or special token of an id, or a list of them."""
        if isinstance(ids, int):
            return self.tokenizer.id_to_piece(ids)
        return [self.tokenizer.id_to_piece(i) for i in _id_list(ids)]

    # Text -> ids

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | None = None,
        *,
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: bool = False,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: TensorType = None,
    ) -> BatchEncoding:
        """Encode one text (or a pair, which ends with eos), or a batch of texts.

        One text gives flat lists, a batch a list of rows. Tensors ("pt", "np") are always [batch, length].
        Padding stands on the left: id 0, mask 0, position 0. Truncation takes the end of the text away.
        """
        single = isinstance(text, str)
        if text_pair is not None and not single:
            raise InvalidParameterError("text_pair goes with a single text; encode the pairs one by one")
        texts = [text] if isinstance(text, str) else list(text)
        limit = None
        if truncation:
            if max_length is None:
                raise InvalidParameterError("truncation=True needs max_length, the number of tokens to keep")
            limit = max_length
        rows = [self._row(t, text_pair, add_special_tokens, limit) for t in texts]
        width = _padded_width(rows, padding, max_length, pad_to_multiple_of)
        return self._encoding(rows, width, return_tensors, flat=single)

    def encode(self, text: str, text_pair: str | None = None, **options: Any) -> Any:
        """`tokenizer(text, ...)["input_ids"]`: with the prefix, unless add_special_tokens=False."""
        return self(text, text_pair, **options)["input_ids"]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, role_tokens=self.encode_special_tokens)

    def _row(self, text: str, pair: str | None, special: bool, limit: int | None) -> list[int]:
        prefix = self.get_prefix_tokens() if special else []
        ids = self._ids(text)
        if pair is not None:
            ids += [*self._ids(pair), *([self.eos_token_id] if special else [])]
        if limit is None or len(prefix) + len(ids) <= limit:
            return prefix + ids
        if pair is not None:
            raise InvalidParameterError("a pair of texts cannot be truncated; shorten one of them")
        if limit < len(prefix):
            raise InvalidParameterError(
                f"max_length is {limit}, but the prefix alone takes {len(prefix)} tokens"
            )
        return prefix + ids[: limit - len(prefix)]

    def _encoding(self, rows: list[list[int]], width: int, kind: TensorType, *, flat: bool) -> BatchEncoding:
        """Rows padded on the left to `width` (0: not padded)."""
        padding = [max(0, width - len(row)) for row in rows]
        columns = {
            "input_ids": [[self.pad_token_id] * pad + row for pad, row in zip(padding, rows)],
            "attention_mask": [[0] * pad + [1] * len(row) for pad, row in zip(padding, rows)],
            "position_ids": [[0] * pad + list(range(len(row))) for pad, row in zip(padding, rows)],
        }
        if kind is None:
            return BatchEncoding({name: rows[0] if flat else rows for name, rows in columns.items()})
        if len({len(row) for row in columns["input_ids"]}) > 1:
            raise InvalidParameterError(
                "texts of different lengths do not fit one tensor; encode with padding=True"
            )
        if kind == "np":
            return BatchEncoding({name: np.array(rows, dtype=np.int64) for name, rows in columns.items()})
        if kind == "pt":
            return BatchEncoding(
                {name: torch.tensor(rows, dtype=torch.long) for name, rows in columns.items()}
            )
        raise InvalidParameterError(f"return_tensors is {kind!r}; it can be 'pt', 'np' or None")

    # Conversations -> ids

    def build_single_message(self, role: str, metadata: str, message: str) -> list[int]:
        """Ids of one message: its role token, `metadata` and a newline, then the text."""
        item = {"role": role, "metadata": metadata, "content": message}
        return encode_message(Message.from_dict(item), self.tokenizer)

    def build_chat_input(
        self, query: str, history: Sequence[Turn] | None = None, role: str = "user"
    ) -> BatchEncoding:
        """The prompt that asks for the reply to `query`, as tensors [1, length]."""
        messages = conversation([*(history or ()), {"role": role, "content": query}])
        return self._encoding([render(messages, self.tokenizer).ids], 0, "pt", flat=False)

    def apply_chat_template(
        self,
        messages: Sequence[Turn],
        *,
        tools: Any = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_tensors: TensorType = None,
        return_dict: bool = False,
    ) -> Any:
        """Ids of a conversation (dicts of ChatGLM3's kind or OpenAI's), or its text where tokenize=False."""
        ids = render(conversation(messages), self.tokenizer, tools=tools).ids
        if not add_generation_prompt:
            ids.pop()
        if not tokenize:
            return self.decode(ids)
        encoding = self._encoding([ids], 0, return_tensors, flat=True)
        return encoding if return_dict else encoding["input_ids"]

    # Ids -> text

    def decode(self, ids: int | Iterable[int] | Tensor, *, skip_special_tokens: bool = False) -> str:
        """Text of one sequence.

        As published, padding and eos have no text and `[gMASK]`, `<|user|>`, ... are spelled out, whatever
        `skip_special_tokens` is.
        """
        return self.tokenizer.decode([ids] if isinstance(ids, int) else _id_list(ids))

    def batch_decode(
        self, sequences: Iterable[Iterable[int]] | Tensor, *, skip_special_tokens: bool = False
    ) -> list[str]:
        """Text of each sequence."""
        return [self.decode(ids, skip_special_tokens=skip_special_tokens) for ids in sequences]


def _id_list(ids: Iterable[int] | Tensor) -> list[int]:
    return ids.flatten().tolist() if isinstance(ids, Tensor | np.ndarray) else list(ids)


def _padded_width(
    rows: list[list[int]], padding: Padding, max_length: int | None, multiple: int | None
) -> int:
    """Length that rows are padded to; 0 where they are not padded."""
    if padding in (False, "do_not_pad"):
        return 0
    if padding in (True, "longest"):
        width = max(map(len, rows), default=0)
    elif padding == "max_length":
        if max_length is None:
            raise InvalidParameterError("padding='max_length' needs max_length, the length to pad to")
        width = max_length
    else:
        raise InvalidParameterError(
            f"padding is {padding!r}; it can be True, False, 'longest' or 'max_length'"
        )
    return width if multiple is None else -(-width // multiple) * multiple
