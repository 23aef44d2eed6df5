"""The mix of conversations that nano learns from; each has a seed of its own and can be made again."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Any

from recipes.nano import chat, code, toolchat
from recipes.nano.words import Lang, Split

Messages = list[dict[str, Any]]
Generator = Callable[[random.Random, Split, Lang], Messages]

MIX: dict[str, tuple[Generator, float]] = {
    "chat": (chat.conversation, 0.24),
    "tools": (toolchat.conversation, 0.52),
    "code": (code.conversation, 0.24),
}
"""Kind of conversation -> (generator, share of the conversations)."""


def seeded(*key: object) -> random.Random:
    """A random stream of its own for `key`, the same on every machine."""
    return random.Random(zlib.crc32(repr(key).encode()) ^ (len(repr(key)) << 32))


def conversation(
    seed: int, index: int, split: Split = "train", most_tools: int = 9, unreal: float = 0.0
) -> Messages:
    """Conversation number `index` of the stream with this seed; see toolchat.conversation() for the rest."""
    rng = seeded("conversation", seed, index, split)
    lang: Lang = rng.choice(("en", "zh"))
    generator = rng.choices([g for g, _ in MIX.values()], [share for _, share in MIX.values()])[0]
    if generator is toolchat.conversation:
        return toolchat.conversation(rng, split, lang, most_tools, unreal)
    return generator(rng, split, lang)
