"""Grammars over a model's own tokens, and the answers that follow them: llguidance behind two small classes.

llguidance never raises: an error is a state of a matcher, in which only the end is allowed. So every answer
that it gives is followed by the question whether it has failed.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from chatglm3.errors import GenerationError, GrammarError
from chatglm3.grammar.literals import Schema
from chatglm3.grammar.reply import reply_form
from chatglm3.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

KEPT_GRAMMARS = 128
"""Compiled grammars that a compiler remembers."""

_RANGE = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


class GrammarCompiler:
    """Compiles grammars for one tokenizer, and remembers the latest. Threads may share it.

    Building it takes a second with ChatGLM3's vocabulary; a schema then takes milliseconds.
    Raises GrammarError if llguidance is not installed.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        try:
            import llguidance
        except ImportError:
            raise GrammarError(
                "guaranteed structure needs llguidance; install it with: pip install 'chatglm3[grammar]'"
            ) from None
        self._llguidance = llguidance
        self._tokenizer = tokenizer
        vocabulary = llguidance.TokenizerWrapper(_Vocabulary(tokenizer))
        self._tokens: LLTokenizer = llguidance.LLTokenizer(vocabulary, n_vocab=tokenizer.vocab_size)
        self._limits = llguidance.LLParserLimits(verbose_errors=False)
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def reply(
        self,
        *,
        answer: Schema | Literal["text"] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        one_call: bool = False,
    ) -> Grammar:
        """The grammar of a reply; the arguments are those of `reply_form`.

        Raises GrammarError, with the reason, for a schema that cannot be guaranteed.
        """
        if answer is not None and answer != "text":
            self._check(answer, "the schema of the answer")
        for tool in tools:
            self._check(tool.get("parameters") or {}, f"the parameters of the tool {tool['name']!r}")
        return self.compile(reply_form(self._tokenizer, answer=answer, tools=tools, one_call=one_call))

    def compile(self, lark: str) -> Grammar:
        """A grammar in llguidance's dialect of Lark. Tokens are written by number: `<[2]>` ends an answer.

        Raises GrammarError, with the reason, for one that llguidance does not take.
        """
        with self._lock:
            if lark in self._kept:
                self._kept.move_to_end(lark)
                return self._kept[lark]
        matcher = self._llguidance.LLMatcher(
            self._tokens,
            self._llguidance.LLMatcher.grammar_from_lark(lark),
            log_level=0,
            limits=self._limits,
        )
        if error := matcher.get_error():
            raise GrammarError(f"the grammar cannot be compiled: {_first_line(error)}")
        grammar = Grammar(matcher, self._tokenizer)
        with self._lock:
            self._kept[lark] = grammar
            if len(self._kept) > KEPT_GRAMMARS:
                self._kept.popitem(last=False)
        return grammar

    def _check(self, schema: Schema, what: str) -> None:
        """Ask llguidance what it thinks of a schema."""
        try:
            text = json.dumps(schema, allow_nan=False)
            grammar = self._llguidance.LLMatcher.grammar_from_json_schema(text)
        except RecursionError:
            raise GrammarError(f"{what} cannot be guaranteed: it is nested too deeply") from None
        except (TypeError, ValueError) as error:
            raise GrammarError(f"{what} is no JSON schema: {_first_line(str(error))}") from None
        failed, messages = self._llguidance.LLMatcher.validate_grammar_with_warnings(
            grammar, limits=self._limits
        )
        if failed:
            raise GrammarError(f"{what} cannot be guaranteed: {_first_line(messages[0])}")
        for part in _parts(schema):
            if isinstance(part, int) and abs(part) > 2**53:
                raise GrammarError(
                    f"{what} cannot be guaranteed: {part} is beyond 2**53 and would be rounded"
                )
            least = part.get("minProperties") if isinstance(part, Mapping) else None
            if _is_number(least) and least > 1:
                raise GrammarError(
                    f"{what} cannot be guaranteed: with 'minProperties' above 1, keys might repeat"
                )


class Grammar:
    """A compiled grammar, from which any number of answers can begin."""

    def __init__(self, matcher: LLMatcher, tokenizer: Tokenizer) -> None:
        self.vocab_size = tokenizer.vocab_size
        self._matcher = matcher
        self._end_ids = tokenizer.stop_ids

    def begin(self) -> Constraint:
        """What one answer has to observe."""
        return Constraint(self._matcher.deep_copy(), self.vocab_size, self._end_ids)


class Constraint:
    """Which tokens one answer may go on with."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, end_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._end_ids = end_ids

    def allowed(self) -> NDArray[np.bool_]:
        """Whether each id may come next, [vocab_size]. Runs beside other threads of Python.

        Raises GenerationError if the grammar is too complex to go on, or leaves nothing.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little", count=self._vocab_size).view(np.bool_)
        if (error := self._matcher.get_error()) or self._matcher.is_stopped() or not allowed.any():
            reason = _first_line(error) or "nothing may follow"
            raise GenerationError(f"the answer can no longer follow its grammar: {reason}")
        return allowed

    def accept(self, token: int) -> bool:
        """Take note of the next token, one of those allowed. Returns whether the answer ends with it."""
        self._matcher.consume_token(token)
        return token in self._end_ids


class _Vocabulary:
    """A tokenizer as llguidance wants to see it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.special_token_ids = [
            tokenizer.unk_id,
            tokenizer.bos_id,
            tokenizer.eos_id,
            *tokenizer.special_ids.values(),
        ]
        self.tokens = [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
        for id in self.special_token_ids:
            self.tokens[id] = f"<[{id}]>".encode()
        # The end of an answer is part of the grammar, so what llguidance adds when it is complete is never
        # used; bos, which no answer holds, takes that place.
        self.bos_token_id = None
        self.eos_token_id = tokenizer.bos_id
        self._mark = self._unmixable()
        self._marked = len(tokenizer.encode(self._mark))

    def __call__(self, text: str) -> list[int]:
        """The pieces of a text in the middle of another one: without SentencePiece's dummy prefix."""
        ids = self._tokenizer.encode(self._mark + text)  # a TypeError for bytes tells llguidance to send text
        return ids[self._marked :]

    def _unmixable(self) -> str:
        """A character that no piece joins with others, so that what stands behind it is encoded by itself."""
        for mark in map(chr, range(1, 32)):
            byte = mark.encode()
            if all(token == byte for token in self.tokens if byte in token):
                return mark
        raise GrammarError("every control character is part of some piece of this tokenizer; use another one")


def _parts(schema: Any) -> Iterator[Any]:
    """Everything within a schema, but for the ends of ranges, where rounding does little."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, Mapping):
            waiting += (value for key, value in part.items() if key not in _RANGE or not _is_number(value))
        elif isinstance(part, list):
            waiting += part


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float))


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
