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
    "chat": (chat.conversation, 0.26),
    "tools": (toolchat.conversation, 0.48),
    "code": (code.conversation, 0.26),
}
"""Kind of conversation -> (generator, share of the conversations)."""

READING_MIX = {"chat": 0.17, "tools": 0.60, "code": 0.23}
"""The shares in the later stages of training, which are about reading schemas."""


def seeded(*key: object) -> random.Random:
    """A random stream of its own for `key`, the same on every machine."""
    return random.Random(zlib.crc32(repr(key).encode()) ^ (len(repr(key)) << 32))


def conversation(
    seed: int, index: int, split: Split = "train", most_tools: int = 5, stage: int = 0
) -> Messages:
    """Conversation number `index` of the stream with this seed, with no more than `most_tools` tools.

    stage: of the training, see toolchat.conversation().
    """
    rng = seeded("conversation", seed, index, split)
    lang: Lang = rng.choice(("en", "zh"))
    shares = [READING_MIX[kind] if stage else share for kind, (_, share) in MIX.items()]
    generator = rng.choices([g for g, _ in MIX.values()], shares)[0]
    if generator is toolchat.conversation:
        return toolchat.conversation(rng, split, lang, most_tools, stage)
    return generator(rng, split, lang)
