"""Tools that people really try: their schemas and the ways to ask for them, in both languages.

The tools stand in `tables/tools_*.txt`, one block a tool, blank lines between. N: names (snake case first)
~ Chinese names. D: descriptions. P: a required parameter, O: an optional one: keys, kind of value,
descriptions (an optional one also says how a request mentions it). E and Z: requests in English and Chinese,
where {0} is the first required parameter; a line that ends in a question mark is a question, any other an
instruction. F: the fields of an observation with their kinds. A tool without parameters has neither P nor O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

TABLES = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Param:
    """One parameter: keys, the kind of its values, descriptions, and (if optional) how it is mentioned."""

    keys: tuple[str, ...]
    kind: str
    en: tuple[str, ...]
    zh: tuple[str, ...]
    mention: dict[str, tuple[str, ...]] | None = None


@dataclass
class Domain:
    """A tool that people try, before it is made concrete."""

    names: tuple[str, ...] = ()
    names_zh: tuple[str, ...] = ()
    descriptions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    params: list[Param] = field(default_factory=list)
    asks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fields: tuple[tuple[str, str], ...] = ()


def _split(text: str, by: str = "/") -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(f" {by} "))


def _both(text: str) -> dict[str, tuple[str, ...]]:
    en, zh = text.split(" ~ ")
    return {"en": _split(en), "zh": _split(zh)}


def _param(text: str) -> Param:
    head, texts, *mention = text.split(" | ")
    keys, kind = head.split()
    both = _both(texts)
    return Param(tuple(keys.split(",")), kind, both["en"], both["zh"], _both(mention[0]) if mention else None)


def _parse(block: str) -> Domain:
    domain = Domain()
    for line in block.strip().splitlines():
        mark, text = line[0], line[2:]
        if mark == "N":
            en, zh = text.split(" ~ ")
            domain.names, domain.names_zh = tuple(en.split()), tuple(zh.split())
        elif mark == "D":
            domain.descriptions = _both(text)
        elif mark in "PO":
            domain.params.append(_param(text))
        elif mark in "EZ":
            domain.asks["en" if mark == "E" else "zh"] = _split(text)
        else:
            domain.fields = tuple((f.split(":")[0], f.split(":")[1]) for f in text.split())
    return domain


def _read() -> tuple[Domain, ...]:
    texts = [path.read_text(encoding="utf-8") for path in sorted(TABLES.glob("tools_*.txt"))]
    return tuple(_parse(block) for text in texts for block in text.strip().split("\n\n"))


DOMAINS: tuple[Domain, ...] = _read()

DEV = frozenset({
    "rent_umbrella", "feed_pet", "get_poem", "delete_file", "get_stock_of_product", "get_moon_phase",
    "water_plants", "find_attractions", "add_contact", "set_volume", "get_steps",
})  # fmt: skip
HELDOUT = frozenset({
    "book_parking_space", "find_restaurant", "read_file", "get_horoscope", "renew_book", "count_words",
    "start_vacuum", "identify_plant", "call_taxi", "print_document", "get_reviews", "recognize_song",
    "pay_bill", "get_calories", "book_court", "define_word",
})  # fmt: skip


def domains(split: str) -> tuple[Domain, ...]:
    """The tools of a split; those of "dev" and "heldout" never occur in training."""
    kept_apart = {"dev": DEV, "heldout": HELDOUT}
    if split in kept_apart:
        return tuple(d for d in DOMAINS if d.names[0] in kept_apart[split])
    return tuple(d for d in DOMAINS if d.names[0] not in DEV | HELDOUT)
