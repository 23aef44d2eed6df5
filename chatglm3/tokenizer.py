"""Text <-> ids: SentencePiece pieces, and nine special tokens that no text can spell.

    id                 meaning
    0, 1, 2            unk (also used as padding), bos, eos
    0 .. n-1           the n pieces of tokenizer.model, among them 256 byte pieces `<0x00>` .. `<0xFF>`
    n .. n+8           the special tokens, in the order of SPECIAL_TOKENS
    from n+9           unused rows of a padded embedding; they decode to ""

The special ids follow from the size of the vocabulary, so ChatGLM3-6B (n = 64789) and the small embedded
model are the same class.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from operator import index
from pathlib import Path

import sentencepiece

from chatglm3.errors import TokenizerError

ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
SPECIAL_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", *ROLE_TOKENS)

_SPACE = "▁"  # how SentencePiece writes a space inside a piece
_ROLE_TOKEN = re.compile("(" + "|".join(map(re.escape, ROLE_TOKENS)) + ")")


class Tokenizer:
    """The tokenizer of a ChatGLM3 model. It holds no state that changes: any number of threads may share one.

    path: a tokenizer.model file, or the model folder that holds one.
    Raises TokenizerError if the file is missing, damaged, or not of ChatGLM3's kind.
    """

    def __init__(self, path: str | Path) -> None:
        self._sp = _load(Path(path))
        size = self._sp.vocab_size()
        self.vocab_size: int = size + len(SPECIAL_TOKENS)
        self.special_ids: dict[str, int] = {name: size + i for i, name in enumerate(SPECIAL_TOKENS)}

        self.unk_id: int = self._sp.unk_id()
        self.bos_id: int = self._sp.bos_id()
        self.eos_id: int = self._sp.eos_id()
        self.pad_id: int = self.unk_id
        self.gmask_id: int = self.special_ids["[gMASK]"]
        self.sop_id: int = self.special_ids["sop"]
        self.system_id: int = self.special_ids["<|system|>"]
        self.user_id: int = self.special_ids["<|user|>"]
        self.assistant_id: int = self.special_ids["<|assistant|>"]
        self.observation_id: int = self.special_ids["<|observation|>"]

        self.prefix_ids: list[int] = [self.gmask_id, self.sop_id]
        """What every sequence starts with."""
        self.stop_ids: frozenset[int] = frozenset({self.eos_id, self.user_id, self.observation_id})
        """What ends a reply. `<|assistant|>` does not: it begins another message of the same reply."""

        self._pieces: list[str] = self._sp.id_to_piece(list(range(size)))
        for control in (self.unk_id, self.bos_id, self.eos_id):
            self._pieces[control] = ""
        self._pieces.extend(SPECIAL_TOKENS)
        self._bytes: dict[int, int] = {
            i: int(self._pieces[i][3:5], 16) for i in range(size) if self._sp.is_byte(i)
        }

    def encode(self, text: str, *, role_tokens: bool = False) -> list[int]:
        """Pieces of `text`, with SentencePiece's dummy prefix (`hi` -> `▁hi`); never a special id.

        role_tokens: turn the four role tokens spelled in `text` into their ids, and encode what stands
            between them piecewise. Only for text that you wrote yourself: it lets text forge a role.
        Raises TokenizerError if `text` is not a string, or holds a lone surrogate (half a character).
        """
        if not isinstance(text, str):
            raise TokenizerError(f"only text can be encoded, not {type(text).__name__} ({text!r:.80})")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"the text holds a lone surrogate, {text[error.start]!r} at position {error.start}, which is "
                "half a character; join it with its other half, or decode the source with errors='replace'"
            ) from None
        if not role_tokens:
            return list(self._sp.encode(text))
        ids: list[int] = []
        for part in _ROLE_TOKEN.split(text):
            if part in ROLE_TOKENS:
                ids.append(self.special_ids[part])
            elif part:
                ids.extend(self._sp.encode(part))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, of any length and kind.

        The space that encode() put in front is taken away, bytes that form no character become U+FFFD one
        by one, a special token is spelled out, and unk, bos, eos and unused ids give nothing.
        Raises TokenizerError for a negative id.
        """
        stream = StreamingDetokenizer(self)
        return "".join([*map(stream.add, ids), stream.finish()])

    def decode_runs(self, ids: Iterable[int]) -> str:
        """Like decode(), but each run of pieces between two special tokens is decoded as a text of its own.

        So every run loses its leading space, and unk is written " ⁇ ".
        """
        text = ""
        for special, group in groupby(map(self._check, ids), lambda i: i >= self._sp.vocab_size()):
            run = list(group)
            text += "".join(map(self.id_to_piece, run)) if special else self._sp.decode(run)
        return text

    def id_to_piece(self, id: int) -> str:
        """The piece as SentencePiece writes it (`▁hi`, `<0x0A>`), a special token's name, or ""."""
        id = self._check(id)
        return self._pieces[id] if id < self.vocab_size else ""

    def token_bytes(self, id: int) -> bytes:
        """The UTF-8 bytes that a token stands for inside a text; they need not be whole characters."""
        byte = self._bytes.get(index(id))
        return self._text(id).encode() if byte is None else bytes([byte])

    def _text(self, id: int) -> str:
        return self.id_to_piece(id).replace(_SPACE, " ")

    @staticmethod
    def _check(id: int) -> int:
        id = index(id)
        if id < 0:
            raise TokenizerError(f"token ids start at 0, and {id} does not stand for a token")
        return id


class StreamingDetokenizer:
    """Turns the ids of one reply into text as they come.

    The texts that add() and finish() return, put together, are exactly `tokenizer.decode(ids)`. A character
    whose bytes are spread over several tokens is held back until it is complete or can no longer become one.
    The work per token does not depend on what came before.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._at_start = True  # nothing said yet, so a leading space is SentencePiece's dummy prefix
        self._pending = b""  # at most three bytes of an unfinished character

    def add(self, id: int) -> str:
        """Text that is certain now; often a word, sometimes nothing."""
        byte = self._tokenizer._bytes.get(index(id))
        if byte is not None:
            self._pending += bytes([byte])
            text = self._take_characters(last=False)
        else:
            text = self.finish()
            word = self._tokenizer._text(id)
            if self._at_start and not text and word.startswith(" "):
                self._at_start = False
                return word[1:]
            text += word
        self._at_start = self._at_start and not text
        return text

    def finish(self) -> str:
        """What was held back: one U+FFFD for each byte of a character that will not be completed."""
        return self._take_characters(last=True)

    def _take_characters(self, *, last: bool) -> str:
        text = ""
        while self._pending:
            try:
                whole, self._pending = self._pending.decode(), b""
                text += whole
            except UnicodeDecodeError as error:
                text += self._pending[: error.start].decode()
                self._pending = self._pending[error.start :]
                if error.reason == "unexpected end of data" and not last:
                    break
                text += "\ufffd"
                self._pending = self._pending[1:]
        return text


def _load(path: Path) -> sentencepiece.SentencePieceProcessor:
    if path.is_dir():
        path = path / "tokenizer.model"
    if not path.is_file():
        raise TokenizerError(f"there is no {path}; the tokenizer.model of a ChatGLM3 model belongs there")
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise TokenizerError(
            f"{path} is damaged or not a SentencePiece model ({error}); download it again"
        ) from error
    probe = "  a\n"
    if processor.decode(processor.encode(probe)) != probe:
        raise TokenizerError(
            f"{path} does not keep spaces and line breaks as ChatGLM3's tokenizer does; train it with "
            "byte_fallback=True, remove_extra_whitespaces=False and normalization_rule_name='identity'"
        )
    return processor
