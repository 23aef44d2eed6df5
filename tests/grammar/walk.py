"""Answers written by nobody: at each step one of the allowed ids, drawn at random."""

from __future__ import annotations

import functools
import random

from chatglm3.grammar import Grammar, GrammarCompiler
from chatglm3.prompt import Reply, ReplyDecoder
from chatglm3.tokenizer import Tokenizer
from tests.tiny import tiny_tokenizer

CLOSERS = set("'\"])},`\n")


@functools.cache
def tiny_compiler() -> tuple[Tokenizer, GrammarCompiler]:
    tokenizer = tiny_tokenizer()
    return tokenizer, GrammarCompiler(tokenizer)


@functools.cache
def closing_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that bring an answer closer to its end."""
    return tokenizer.stop_ids | {
        id
        for id in range(tokenizer.vocab_size)
        if tokenizer.token_bytes(id).decode(errors="replace") in CLOSERS
    }


def walk(grammar: Grammar, tokenizer: Tokenizer, seed: int, most: int = 400) -> tuple[list[int], bool]:
    """A random answer, and whether it came to its end. Where there is a way out, it often takes it."""
    rng = random.Random(seed)
    constraint = grammar.begin()
    ids: list[int] = []
    while len(ids) < most:
        allowed = constraint.allowed().nonzero()[0].tolist()
        ways_out = [id for id in allowed if id in closing_ids(tokenizer)]
        ids.append(rng.choice(ways_out if ways_out and rng.random() < 0.5 else allowed))
        if constraint.accept(ids[-1]):
            return ids, True
    return ids, False


def follows(grammar: Grammar, ids: list[int]) -> bool:
    """Whether these ids are a whole answer."""
    constraint = grammar.begin()
    for position, id in enumerate(ids):
        if not constraint.allowed()[id]:
            return False
        if constraint.accept(id):
            return position == len(ids) - 1
    return False


def read(ids: list[int], tokenizer: Tokenizer, tool_names: set[str]) -> Reply:
    decoder = ReplyDecoder(tokenizer, tool_names=tool_names)
    for id in ids:
        decoder.add(id)
    return decoder.finish()[1]
