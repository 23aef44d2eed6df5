# ruff: noqa: E501 (tables of words and wordings, one entry after the other)
"""nano's SentencePiece vocabulary: short to read, and such that names and values can be copied piece by piece.

- A space, a line break, a digit, a punctuation mark and a Chinese character are one piece each, so a word is cut in
  the same way wherever it stands: after a space, in quotes, or inside `get_weather`.
- Letters form BPE pieces learnt from the words of the data; the commonest little words include the spaces around them.
- The fixed parts of a tool list and of a call are one piece each. They carry no meaning and would fill the prompt.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import sentencepiece

from recipes.nano import values
from recipes.nano.data import conversation, seeded

SIZE = 6135
"""Pieces; with the nine special tokens 6,144, a multiple of 64."""

_I8, _I12, _I16, _I20 = (" " * n for n in (8, 12, 16, 20))


def _skeleton() -> list[str]:
    """Fixed parts of a tool list as `json.dumps(tools, indent=4)` writes it, and of calls and code."""
    symbols = [f"\n{' ' * 4 * n}" for n in range(1, 8)]
    symbols += [
        "    ",
        '": "',
        '", "',
        '": ',
        '": {',
        '": [',
        '",\n',
        '"\n',
        '{"',
        '"}',
        "['",
        "']",
        "': '",
        "', '",
        "='",
        "',",
    ]
    first_parameter = f'\n{_I8}"parameters": {{\n{_I12}"type": "object",\n{_I12}"properties": {{'
    symbols += [
        f'\n[\n    {{\n{_I8}"name": "',
        f'",\n{_I8}"description": "',
        f'",{first_parameter}\n{_I16}"',
        f'",{first_parameter}}}',
        f'": {{\n{_I20}"description": "',
        f'",\n{_I20}"description": "',
        f'",\n{_I20}"enum": [\n{_I20}    "',
        f'",\n{_I20}    "',
        f'"\n{_I20}]\n{_I16}}}',
        f'"\n{_I16}}},\n{_I16}"',
        f',\n{_I16}"',
        f'"\n{_I16}}}\n{_I12}}},\n{_I12}"required": [\n{_I16}"',
        f'"\n{_I16}}}\n{_I12}}}\n{_I8}}}\n    }},\n    {{\n{_I8}"name": "',
        f'"\n{_I16}}}\n{_I12}}}\n{_I8}}}\n    }}\n]',
        f'",\n{_I16}"',
        f'"\n{_I12}]\n{_I8}}}\n    }},\n    {{\n{_I8}"name": "',
        f'"\n{_I12}]\n{_I8}}}\n    }}\n]',
        f'\n{_I12}}},\n{_I12}"required": [\n{_I16}"',
        f'",\n{_I8}"params": [\n{_I12}{{\n{_I16}"name": "',
        f'",\n{_I16}"description": "',
        f'\n{_I12}}},\n{_I12}{{\n{_I16}"name": "',
        f'\n{_I12}}}\n{_I8}]\n    }},\n    {{\n{_I8}"name": "',
        f"\n{_I12}}}\n{_I8}]\n    }}\n]",
        f',\n{_I16}"required": true',
        f',\n{_I16}"required": false',
    ]
    for kind in ("string", "integer", "number", "array", "boolean"):
        symbols += [
            f'": {{\n{_I20}"type": "{kind}",\n{_I20}"description": "',
            f'",\n{_I20}"type": "{kind}"\n{_I16}}}',
        ]
    symbols += [f'",\n{_I16}"type": "{kind}"' for kind in ("str", "int", "float", "bool", "list")]
    symbols += [
        "```python\n",
        "\n```",
        "tool_call(",
        "import numpy as np\n",
        "import matplotlib.pyplot as plt\n",
        "print(",
        "plt.show()",
    ]
    little = [
        "the",
        "of",
        "is",
        "a",
        "to",
        "in",
        "and",
        "for",
        "you",
        "what",
        "me",
        "my",
        "on",
        "at",
        "with",
        "are",
        "I",
        "it",
        "from",
        "this",
        "your",
        "an",
        "can",
        "that",
        "not",
        "do",
        "have",
    ]
    symbols += [f" {word} " for word in little] + [", ", ". "]
    symbols += ["Answer the following questions as best as you can. You have access to the following tools:"]
    return symbols


_TYPED = "".join(map(chr, range(0x21, 0x7F)))
_MARKS = "，。？！：；、“”‘’（）《》「」【】…—·～￥×÷√π²³°℃→±≤≥≠αβθλμσΣ€£¥$©™•👋😊👍🎉❤😀🙏🌧☀"
_ACCENTED = "".join(map(chr, [*range(0xC0, 0xD7), *range(0xD8, 0xF7), *range(0xF8, 0x100)]))


def _words(seed: int, conversations: int) -> Counter[str]:
    """The Latin words of the training data with their counts."""
    found: Counter[str] = Counter()
    for index in range(conversations):
        for message in conversation(seed, index):
            texts = [message["content"], message.get("metadata", ""), str(message.get("tools", ""))]
            found.update(re.findall("[A-Z]?[a-z]+|[A-Z]+", " ".join(texts)))
    rng = seeded("syllables", seed)
    found.update(values.syllables(rng, 1, 2) for _ in range(conversations * 8))
    return found


def train_vocabulary(folder: Path, seed: int, conversations: int = 12000) -> Path:
    """Train the vocabulary on the words of `conversations` conversations; write `folder`/tokenizer.model."""
    counts = _words(seed, conversations)
    lines = [w for w, n in sorted(counts.items()) for _ in range(min(n, 400))]
    symbols = dict.fromkeys(s.replace(" ", "▁") for s in ["\n", " ", *_skeleton()])
    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=SIZE,
        byte_fallback=True,
        split_digits=True,
        character_coverage=1.0,
        required_chars="".join(dict.fromkeys(_TYPED + _MARKS + _ACCENTED + values.HAN)),
        user_defined_symbols=list(symbols),
        max_sentencepiece_length=12,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    return folder / "tokenizer.model"
