# ruff: noqa: E501 (tables of words and wordings, one entry after the other)
"""Tools with schemas nobody has seen, requests for them, and conversations that use them.

A tool is drawn from one of three families: everyday tools (`domains.py`), combinations of a verb, a thing and
its fields, and nonsense words (so that nothing but reading the schema can help).
"""

from __future__ import annotations

import json
import keyword
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from recipes.nano import values, words
from recipes.nano.domains import Domain, domains
from recipes.nano.values import KINDS, Value
from recipes.nano.wording import vary
from recipes.nano.words import Lang, Split, part

TOOL_SYSTEM = "Answer the following questions as best as you can. You have access to the following tools:"
Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Slot:
    """A parameter of a concrete tool."""

    key: str
    kind: str
    description: str
    required: bool = True

    def __post_init__(self) -> None:
        if keyword.iskeyword(self.key):  # `tool_call(from='x')` is not Python
            object.__setattr__(self, "key", self.key + "_")


@dataclass(frozen=True)
class Request:
    """What a user asks of one tool, and what is right to do about it."""

    text: str
    arguments: dict[str, Value]


@dataclass(frozen=True)
class Tool:
    """A concrete tool: its schema, and functions that draw requests for it and observations from it."""

    name: str
    schema: dict[str, Any]
    slots: tuple[Slot, ...]
    ask: Callable[[random.Random, Lang], Request]
    observe: Callable[[random.Random, Lang], dict[str, Any]]
    concept: str
    """What it is about; two tools of one concept never stand in one prompt."""
    only: Lang | None = None
    """The one language in which it can be asked for, where its words have no translation."""


def draw_tool(
    rng: random.Random, split: Split, lang: Lang, near: Tool | None = None, unreal: float = 0.0
) -> Tool:
    """A tool whose schema is in `lang`. `near` asks for one that is easily mistaken for that tool.

    unreal: share of tools that make no sense, so that only reading their schemas helps; for training.
    """
    if near and near.concept.count("/") == 2 and rng.random() < 0.6:
        _, thing, field = near.concept.split("/")
        return _lookup(
            rng, split, lang, thing if rng.random() < 0.5 else None, field if rng.random() < 0.5 else None
        )
    if rng.random() < unreal:
        return (_scrambled if rng.random() < 0.75 else _nonsense)(rng, lang)
    roll = rng.random()
    if roll < 0.6:
        return _everyday(rng, split, lang)
    return _lookup(rng, split, lang, None, None) if roll < 0.78 else _action(rng, split, lang)


# ---- names and schemas -------------------------------------------------------------------------------------


def _styled(rng: random.Random, snake: str) -> str:
    """One of the ways in which programs spell a name."""
    roll, pieces = rng.random(), re.split("[_ -]", snake)
    if roll < 0.68:
        return "_".join(pieces)
    if roll < 0.8:
        return pieces[0] + "".join(p.capitalize() for p in pieces[1:])
    if roll < 0.88:
        return "-".join(pieces)
    return (
        "".join(p.capitalize() for p in pieces)
        if roll < 0.94
        else "_".join(pieces[:3]) + rng.choice(("_v2", "_api", "_tool"))
    )


def _schema(rng: random.Random, name: str, description: str, slots: list[Slot]) -> dict[str, Any]:
    typed = rng.random() < 0.75
    if rng.random() < 0.12:  # the form of the original demo
        kinds = {"integer": "int", "number": "float", "string": "str", "array": "list", "boolean": "bool"}
        rows = [
            {
                "name": s.key,
                "description": s.description,
                "type": kinds[values.JSON_TYPES.get(s.kind, "string")],
                "required": s.required,
            }
            for s in slots
        ]
        return {"name": name, "description": description, "params": rows}
    properties = {}
    for s in slots:
        entry: dict[str, Any] = {"type": values.JSON_TYPES.get(s.kind, "string")} if typed else {}
        if not typed and s.kind in values.JSON_TYPES:
            entry = {"type": values.JSON_TYPES[s.kind]}
        entry["description"] = s.description
        if s.kind == "onoff":
            entry["enum"] = ["on", "off"]
        if rng.random() < 0.1:
            entry = dict(reversed(entry.items()))
        properties[s.key] = entry
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.93:
        parameters["required"] = [s.key for s in slots if s.required]
    return {"name": name, "description": description, "parameters": parameters}


def _argument(kind: str, value: Value) -> Value:
    return {"打开": "on", "关闭": "off"}.get(str(value), value) if kind == "onoff" else value


def _spoken(value: Value, lang: Lang) -> str:
    if isinstance(value, bool):
        return {("en", True): "true", ("en", False): "false", ("zh", True): "是", ("zh", False): "否"}[
            lang, value
        ]
    return str(value)


# ---- everyday tools ----------------------------------------------------------------------------------------


def _everyday(rng: random.Random, split: Split, lang: Lang, domain: Domain | None = None) -> Tool:
    domain = domain or rng.choice(domains(split))
    name = rng.choice(domain.names)
    if lang == "zh" and rng.random() < 0.15:
        name = rng.choice(domain.names_zh)
    elif rng.random() < 0.25:
        name = _styled(rng, name)
    kept = [p for p in domain.params if p.mention is None or rng.random() < 0.5]
    slots: list[Slot] = []
    for p in kept:
        key = next(k for k in rng.sample(p.keys, len(p.keys)) if k not in [s.key for s in slots])
        if rng.random() < 0.1:
            key = re.sub("_(.)", lambda m: m[1].upper(), key)
        slots.append(Slot(key, p.kind, rng.choice(p.en if lang == "en" else p.zh), p.mention is None))

    def ask(rng: random.Random, ask_lang: Lang) -> Request:
        drawn = [KINDS[p.kind](rng, split, ask_lang) for p in kept]
        spoken = [_spoken(v, ask_lang) for v in drawn]
        base = vary(rng, rng.choice(part(domain.asks[ask_lang], split)), ask_lang).format(
            *[s for s, p in zip(spoken, kept) if not p.mention]
        )
        arguments: dict[str, Value] = {}
        for slot, p, value, said in zip(slots, kept, drawn, spoken):
            if p.mention:
                if rng.random() < 0.45:
                    continue
                base = _append(base, rng.choice(p.mention[ask_lang]).format(said), ask_lang)
            arguments[slot.key] = _argument(p.kind, value)
        return _polite(rng, split, base, arguments, ask_lang)

    def observe(rng: random.Random, obs_lang: Lang) -> dict[str, Any]:
        return {key: KINDS[kind](rng, split, obs_lang) for key, kind in domain.fields}

    description = rng.choice(domain.descriptions[lang])
    return Tool(name, _schema(rng, name, description, slots), tuple(slots), ask, observe, domain.names[0])


def _append(base: str, extra: str, lang: Lang) -> str:
    """Put an optional remark before the closing punctuation mark."""
    end = base[-1] if base[-1] in "?？" else ""
    stem = base.removesuffix(end) if end else base
    gap = "" if extra.startswith(",") else " " if lang == "en" else "，"
    return stem + gap + extra + end


# ---- wording -----------------------------------------------------------------------------------------------

_OPEN_EN = ("Hi, {}", "Hello! {}", "Please {}", "Could you {}?", "Can you {}?", "I want you to {}", "{}, please", "Would you {}?",
            "Hey, {}", "I'd like you to {}", "Help me: {}", "Please help me {}", "{} for me", "{} now", "OK, {}", "Now {}",
            "I need you to {}", "{}, thanks", "Next, {}", "Quickly {}", "Go ahead and {}",
            "{} if you can", "{} right away", "{}, it is urgent", "Hi there, please {}", "{} when you have time", "Let's {}", "May I ask you to {}?")  # fmt: skip
_ASK_EN = ("Hi, {}", "Hello! {}", "Tell me, {}", "Hey, {}", "I wonder, {}", "Excuse me, {}", "So, {}", "One question: {}",
           "OK, {}", "Well, {}", "And {}", "Please tell me: {}", "Quick question: {}", "Now, {}")  # fmt: skip
_OPEN_ZH = ("请{}", "帮我{}", "请帮我{}", "麻烦{}", "你好，{}", "能不能{}？", "可以{}吗？", "麻烦你{}", "我想让你{}", "{}，谢谢", "现在{}",
            "你能{}吗？", "请问能{}吗？", "好的，{}", "接下来{}", "快{}", "{}吧", "{}一下吧", "劳驾{}", "拜托{}", "然后{}",
            "你好，请{}", "{}，急用", "有空的话{}", "能帮忙{}吗？", "{}，麻烦了", "我需要你{}", "赶紧{}")  # fmt: skip
_ASK_ZH = ("请问{}", "你好，{}", "我想知道{}", "告诉我，{}", "麻烦问一下，{}", "嗨，{}", "那么，{}", "问一下，{}", "您好，请问{}",
           "想请教一下，{}", "好，{}", "对了，{}", "另外，{}", "不好意思，{}")  # fmt: skip


_STATEMENT = re.compile(
    r"(the|i|i'm|i'd|i've|my|we|our|there|it|it's|this|that|someone) |[我你他她]|家里|这|那", re.IGNORECASE
)
"""How a base begins that tells of a wish or a problem, which "please" does not fit."""


def _polite(rng: random.Random, split: Split, base: str, arguments: dict[str, Value], lang: Lang) -> Request:
    """Wrap a request in an opening or a courtesy, and vary case and punctuation."""
    question = base[-1] in "?？"
    if rng.random() < 0.45:
        asks, commands = (_ASK_EN, _OPEN_EN) if lang == "en" else (_ASK_ZH, _OPEN_ZH)
        frames = part(asks if question else commands, split)
        if not question and _STATEMENT.match(base):
            frames = tuple(f for f in frames if re.match(r".*[,!，]\s?\{\}|\{\}[,，]", f)) or ("{}",)
        frame = rng.choice(frames)
        inner = base.rstrip("?？") if frame.endswith(("?", "？")) and question else base
        base = frame.format(inner)
    roll = rng.random()
    if (
        lang == "en"
        and roll < 0.75
        and base[0].islower()
        and not any(str(v) == base[: len(str(v))] for v in arguments.values())
    ):
        base = base[0].upper() + base[1:]
    if base[-1] in "?？" and rng.random() < 0.12:
        base = base[:-1]
    elif base[-1] not in "?？\"”'`" and rng.random() < 0.35:
        base += "." if lang == "en" else rng.choice("。！")
    if lang == "en" and rng.random() < 0.05:
        return Request(
            base.lower(), {k: v.lower() if isinstance(v, str) else v for k, v in arguments.items()}
        )
    return Request(base, arguments)


# ---- verbs, things and fields ------------------------------------------------------------------------------

_LOOKUP_EN = ("what is the {f} of the {o} {v}?", "what's the {f} of {v}?", "{f} of the {o} {v}", "tell me the {f} of the {o} {v}",
              "I need the {f} of {o} {v}", "show me the {f} of {v}", "what {f} does the {o} {v} have?", "find the {f} of the {o} called {v}",
              "do you know the {f} of {v}?", "give me the {o} {v}'s {f}", "check the {f} of {o} {v}", "which {f} has {v}?",
              "{o} {v}: what is its {f}?", "look up {v} and tell me its {f}", "I'd like to know the {f} of {v}", "{v}'s {f}?")  # fmt: skip
_LOOKUP_ZH = ("{o}{v}的{f}是什么？", "{v}的{f}是多少？", "查一下{o}{v}的{f}", "告诉我{v}的{f}", "我想知道{o}{v}的{f}", "{v}这个{o}的{f}呢？",
              "看看{v}的{f}", "{o}{v}有什么{f}？", "{v}的{f}", "查询{o}“{v}”的{f}", "{o}“{v}”的{f}是？", "给我{o}{v}的{f}",
              "请给出{v}的{f}", "找找{o}{v}的{f}", "知道{v}的{f}吗？")  # fmt: skip
_FIELD_KINDS = (
    *("word",) * 4, *("phrase",) * 3, "code", "code", "time", "int", "int", "person", "city", "small", "float", "date", "color", "bool",
    "numbers", "file", "file", "email", "url", "phone", "sentence", "topic", "symbol", "food", "room",
)  # fmt: skip


def _lookup(rng: random.Random, split: Split, lang: Lang, thing: str | None, field: str | None) -> Tool:
    """A tool that tells one field of a thing, as `get_book_price(book)`."""
    things, fields = dict(part(words.OBJECTS, split)), dict(part(words.FIELDS, split))
    o_en = thing or rng.choice(tuple(things))
    f_en = field or rng.choice(tuple(fields))
    o, f = {"en": o_en, "zh": things[o_en]}, {"en": f_en, "zh": fields[f_en]}
    stem, verb_en, verb_zh = rng.choice(part(words.LOOKUP_VERBS, split))
    o_id, f_id = o_en.replace(" ", "_"), f_en.replace(" ", "_")
    names = [
        f"{stem}_{o_id}_{f_id}",
        f"{stem}_{f_id}_of_{o_id}",
        f"{o_id}_{f_id}",
        f"{stem}_{f_id}",
        f"{o_id}_{f_id}_{stem}",
    ]
    name = (
        _styled(rng, rng.choice(names))
        if lang == "en" or rng.random() < 0.85
        else f"{verb_zh}{o['zh']}{f['zh']}"
    )
    if lang == "en":
        forms = (f"{verb_en} the {f_en} of a {o_en}", f"{verb_en} {o_en} {f_en}", f"The {f_en} of the given {o_en}",
                 f"{verb_en} the {f_en} of the {o_en} by its name", f"{o_en.capitalize()} {f_en} service")  # fmt: skip
    else:
        forms = (f"{verb_zh}{o['zh']}的{f['zh']}", f"{verb_zh}指定{o['zh']}的{f['zh']}", f"{o['zh']}{f['zh']}{verb_zh}",
                 f"根据名称{verb_zh}{o['zh']}的{f['zh']}", f"给出{o['zh']}的{f['zh']}")  # fmt: skip
    kind = rng.choice(("word", "word", "phrase", "code"))
    key = rng.choice((o_id, f"{o_id}_name", "name", f"{o_id}_id", "id", "target"))
    key_text = rng.choice((f"The {o_en}", f"Name of the {o_en}", f"the {o_en} to look up")) if lang == "en" else rng.choice(
        (f"{o['zh']}名称", f"要查询的{o['zh']}", f"{o['zh']}")
    )  # fmt: skip
    slots = [Slot(key, kind, key_text)]

    def ask(rng: random.Random, ask_lang: Lang) -> Request:
        value = KINDS[kind](rng, split, ask_lang)
        template = vary(
            rng, rng.choice(part(_LOOKUP_EN if ask_lang == "en" else _LOOKUP_ZH, split)), ask_lang
        )
        text = template.format(f=f[ask_lang], o=o[ask_lang], v=value)
        return _polite(rng, split, text, {slots[0].key: value}, ask_lang)

    result_kind = rng.choice(_FIELD_KINDS)

    def observe(rng: random.Random, obs_lang: Lang) -> dict[str, Any]:
        return {f_id: KINDS[result_kind](rng, split, obs_lang)}

    return Tool(
        name,
        _schema(rng, name, rng.choice(forms), slots),
        tuple(slots),
        ask,
        observe,
        f"lookup/{o_en}/{f_en}",
    )


_SYNONYMS = {
    "create": "make", "add": "put in", "delete": "remove", "update": "change", "book": "order", "cancel": "call off",
    "reserve": "keep", "start": "begin", "stop": "end", "buy": "purchase", "repair": "fix", "return": "give back",
    "move": "shift", "register": "sign up", "download": "get", "clean": "tidy up", "schedule": "plan", "close": "shut",
}  # fmt: skip
_ACTION_EN = ("{v} a {o} with {s}", "{v} the {o}, {s}", "{v} the {o} with {s}", "{v} {o}: {s}", "I want to {v} a {o} with {s}",
              "{v} my {o} ({s})", "for the {o}, {v} it with {s}", "we should {v} the {o}, {s}", "the {o} is to {v}: {s}",
              "{s}: {v} the {o}", "{v} this {o}, use {s}", "let's {v} the {o} with {s}", "can we {v} a {o} with {s}?",
              "{v} one {o}, {s}")  # fmt: skip
_ACTION_ZH = ("{v}一个{o}，{s}", "{v}{o}，{s}", "把{o}{v}，{s}", "我要{v}{o}，{s}", "{v}{o}：{s}", "对{o}进行{v}，{s}", "需要{v}{o}，{s}",
              "{s}，{v}{o}", "想{v}一个{o}，{s}", "{o}要{v}，{s}", "给我{v}{o}，{s}", "现在{v}这个{o}，{s}", "能{v}{o}吗？{s}",
              "{v}那个{o}，{s}")  # fmt: skip
_PLAIN_EN = (
    "{v} the {o}",
    "{v} a {o}",
    "I want to {v} the {o}",
    "{v} my {o}",
    "it's time to {v} the {o}",
    "{v} this {o}",
    "the {o}: {v} it",
)
_PLAIN_ZH = ("{v}{o}", "把{o}{v}", "我要{v}{o}", "{v}这个{o}", "该{v}{o}了", "{v}一下{o}", "{o}需要{v}")
_SETTING_EN = (
    "{f} {v}",
    "the {f} is {v}",
    "{f}: {v}",
    "{f} = {v}",
    "{v} as the {f}",
    "{f} set to {v}",
    "with {v} for {f}",
)
_SETTING_ZH = ("{f}{v}", "{f}是{v}", "{f}：{v}", "{f}为{v}", "{f}设为{v}", "{f}用{v}", "以{v}作为{f}")


def _action(rng: random.Random, split: Split, lang: Lang) -> Tool:
    """A tool that does something to a thing with one to three settings, as `create_note(title, color)`."""
    stem, verb_en, verb_zh = rng.choice(part(words.ACTION_VERBS, split))
    o_en, o_zh = rng.choice(part(words.OBJECTS, split))
    o, v = {"en": o_en, "zh": o_zh}, {"en": verb_en.lower(), "zh": verb_zh}
    chosen = rng.sample(part(words.FIELDS, split), rng.choices((0, 1, 2, 3), (8, 40, 35, 17))[0])
    o_id = o_en.replace(" ", "_")
    name = rng.choice((f"{stem}_{o_id}", f"{stem}_{o_id}", f"{o_id}_{stem}", f"{stem}_the_{o_id}"))
    name = _styled(rng, name) if lang == "en" or rng.random() < 0.85 else f"{verb_zh}{o_zh}"
    forms = (
        (
            f"{verb_en} a {o_en}",
            f"{verb_en} {o_en}",
            f"Use this to {stem} a {o_en}",
            f"{verb_en} the given {o_en}",
        )
        if lang == "en"
        else (f"{verb_zh}{o_zh}", f"{verb_zh}一个{o_zh}", f"用来{verb_zh}{o_zh}", f"{verb_zh}指定的{o_zh}")
    )
    slots = [
        Slot(
            f_en.replace(" ", "_"),
            rng.choice(_FIELD_KINDS),
            rng.choice((f"The {f_en} of the {o_en}", f"{f_en}", f"{o_en} {f_en}", f"the {f_en}"))
            if lang == "en"
            else rng.choice((f"{o_zh}的{f_zh}", f_zh, f"{o_zh}{f_zh}")),
            i == 0 or rng.random() < 0.6,
        )
        for i, (f_en, f_zh) in enumerate(chosen)
    ]

    def ask(rng: random.Random, ask_lang: Lang) -> Request:
        arguments: dict[str, Value] = {}
        said = []
        for slot, names in zip(slots, chosen):
            if not slot.required and rng.random() < 0.5:
                continue
            value = KINDS[slot.kind](rng, split, ask_lang)
            arguments[slot.key] = value
            form = rng.choice(part(_SETTING_EN if ask_lang == "en" else _SETTING_ZH, split))
            said.append(form.format(f=names[ask_lang == "zh"], v=_spoken(value, ask_lang)))
        if rng.random() < 0.2:
            rng.shuffle(said)
        if not said:
            plain = rng.choice(part(_PLAIN_EN if ask_lang == "en" else _PLAIN_ZH, split))
            return _polite(rng, split, plain.format(v=v[ask_lang], o=o[ask_lang]), arguments, ask_lang)
        joined = rng.choice((", ", " and ", ", ")).join(said) if ask_lang == "en" else "，".join(said)
        verb = v[ask_lang]
        if ask_lang == "en" and rng.random() < 0.25:
            verb = _SYNONYMS.get(verb, verb)
        template = vary(
            rng, rng.choice(part(_ACTION_EN if ask_lang == "en" else _ACTION_ZH, split)), ask_lang
        )
        text = template.format(v=verb, o=o[ask_lang], s=joined)
        return _polite(rng, split, text, arguments, ask_lang)

    def observe(rng: random.Random, obs_lang: Lang) -> dict[str, Any]:
        result: dict[str, Any] = {"status": KINDS["ok"](rng, split, obs_lang)}
        if rng.random() < 0.4:
            result[rng.choice((f"{o_id}_id", "id", "number"))] = KINDS["code"](rng, split, obs_lang)
        return result

    return Tool(
        name, _schema(rng, name, rng.choice(forms), slots), tuple(slots), ask, observe, f"{stem} {o_en}"
    )


def _nonsense(rng: random.Random, lang: Lang) -> Tool:
    """A tool of invented words: only its schema says what it does."""

    def invent() -> str:
        return values.syllables(rng, 1, 2) if lang == "en" else values.han(rng, 2, 2)

    verb, thing = invent(), invent()
    latin = f"{values.syllables(rng, 1, 2)}_{values.syllables(rng, 1, 2)}"
    name = (f"{verb}_{thing}" if lang == "en" else verb + thing) if rng.random() < 0.6 else latin
    fields = [invent() for _ in range(rng.choice((1, 1, 2, 3)))]
    slots: list[Slot] = []
    for i, f in enumerate(dict.fromkeys(fields)):
        key = (
            f if rng.random() < 0.6 else f"arg{i + 1}" if rng.random() < 0.3 else values.syllables(rng, 2, 2)
        )
        if key not in [s.key for s in slots]:
            slots.append(Slot(key, rng.choice(_FIELD_KINDS), f"the {f}" if lang == "en" else f))
    description = f"{verb.capitalize()} the {thing}" if lang == "en" else f"{verb}{thing}"
    labels = [s.description.removeprefix("the ") for s in slots]

    def ask(rng: random.Random, ask_lang: Lang) -> Request:
        drawn = [KINDS[s.kind](rng, "train", ask_lang) for s in slots]
        form = "{f} {v}" if lang == "en" else "{f}{v}"
        said = [form.format(f=f, v=_spoken(v, ask_lang)) for f, v in zip(labels, drawn)]
        text = (
            f"{verb} the {thing} with {', '.join(said)}"
            if lang == "en"
            else f"{verb}{thing}，{'，'.join(said)}"
        )
        return Request(text, {s.key: v for s, v in zip(slots, drawn)})

    def observe(rng: random.Random, obs_lang: Lang) -> dict[str, Any]:
        return {rng.choice(labels): KINDS["word"](rng, "train", obs_lang)}

    return Tool(
        name, _schema(rng, name, description, slots), tuple(slots), ask, observe, f"{verb} {thing}", lang
    )


def _scrambled(rng: random.Random, lang: Lang) -> Tool:
    """A tool described by real words that do not belong together: to choose it, its description must be read.

    The request has some of the description's words among others, in any order; the name shares none of them
    more often than not.
    """
    zh = lang == "zh"
    pool = [pair[zh] for table in (words.OBJECTS, words.FIELDS) for pair in part(table, "train")]
    about = rng.sample(pool, rng.randint(2, 5))
    named = rng.sample(about, 1) if rng.random() < 0.3 else []
    named += [pair[0] for pair in rng.sample(part(words.OBJECTS, "train"), rng.randint(1, 2))]
    name = (
        _styled(rng, "_".join(w.replace(" ", "_") for w in named))
        if not zh or rng.random() < 0.7
        else "".join(named)
    )
    slots: list[Slot] = []
    labels: list[str] = []
    for label in rng.sample(pool, rng.choices((0, 1, 2, 3), (15, 45, 28, 12))[0]):
        key = label.replace(" ", "_") if rng.random() < 0.4 else _invented_name(rng)
        if key.isidentifier() and key not in [s.key for s in slots] and label not in about:
            slots.append(Slot(key, rng.choice(_FIELD_KINDS), f"the {label}" if not zh else label))
            labels.append(label)
    gap = "" if zh else " "
    description = (
        gap.join(about)
        if rng.random() < 0.5
        else rng.choice(("，" if zh else ", ", "的" if zh else " of the ")).join(about)
    )

    def ask(rng: random.Random, ask_lang: Lang) -> Request:
        drawn = [KINDS[s.kind](rng, "train", ask_lang) for s in slots]
        said = [f"{f}{gap}{_spoken(v, ask_lang)}" for f, v in zip(labels, drawn)]
        wanted = rng.sample(about, rng.randint(1, len(about)))
        noise = [w for w in rng.sample(pool, rng.randint(0, 2)) if w not in about]
        wish = (rng.choice(("", " ", "的", "，")) if zh else rng.choice((" ", " ", " and ", " the "))).join(
            [*noise, *wanted]
        )
        text = (("，" if zh else ", ") if rng.random() < 0.7 else " ").join(
            rng.sample([wish, *said], len(said) + 1) if rng.random() < 0.4 else [wish, *said]
        )
        return _polite(rng, "train", text, {s.key: v for s, v in zip(slots, drawn)}, ask_lang)

    def observe(rng: random.Random, obs_lang: Lang) -> dict[str, Any]:
        key = rng.choice(part(words.FIELDS, "train"))[0].replace(" ", "_")
        return {key: KINDS["word"](rng, "train", obs_lang)}

    schema = _schema(rng, name, description, slots)
    return Tool(name, schema, tuple(slots), ask, observe, " ".join(about), lang)


# ---- disguises ---------------------------------------------------------------------------------------------


def _invented_name(rng: random.Random) -> str:
    """A name that has nothing to do with what it names."""
    roll = rng.random()
    if roll < 0.4:
        return _styled(rng, "_".join(values.syllables(rng, 1, 2) for _ in range(rng.randint(1, 3))))
    if roll < 0.7:
        drawn = [
            rng.choice(part(rng.choice((words.OBJECTS, words.FIELDS)), "train"))[0]
            for _ in range(rng.randint(1, 3))
        ]
        return _styled(rng, "_".join(drawn).replace(" ", "_"))
    if roll < 0.85:
        return values.han(rng, 2, 5)
    return f"{values.syllables(rng, 1, 1)}{rng.choice(('', '_', '-'))}{rng.randint(1, 999)}"


def disguised(rng: random.Random, tool: Tool) -> Tool:
    """The same tool under an invented name, some of its parameters too, so that both must be read in the schema."""
    name = _invented_name(rng)
    keys: dict[str, str] = {}
    for slot in tool.slots:
        key = _invented_name(rng) if rng.random() < 0.5 else slot.key
        usable = key.isidentifier() and not keyword.iskeyword(key) and key not in keys.values()
        keys[slot.key] = key if usable else slot.key
    schema = {**tool.schema, "name": name}
    if "params" in schema:
        schema["params"] = [{**row, "name": keys[row["name"]]} for row in schema["params"]]
    else:
        old = schema["parameters"]
        new: dict[str, Any] = {"properties": {keys[key]: entry for key, entry in old["properties"].items()}}
        if "required" in old:
            new["required"] = [keys[key] for key in old["required"]]
        schema["parameters"] = {**old, **new}

    def ask(rng: random.Random, lang: Lang) -> Request:
        request = tool.ask(rng, lang)
        return Request(request.text, {keys[key]: value for key, value in request.arguments.items()})

    slots = tuple(replace(slot, key=keys[slot.key]) for slot in tool.slots)
    return replace(tool, name=name, schema=schema, slots=slots, ask=ask)


# ---- messages ----------------------------------------------------------------------------------------------


def call_message(tool: Tool, arguments: dict[str, Value]) -> dict[str, Any]:
    """The assistant's call, with the arguments in the schema's order."""
    inner = ", ".join(f"{s.key}={arguments[s.key]!r}" for s in tool.slots if s.key in arguments)
    return {"role": "assistant", "metadata": tool.name, "content": f"```python\ntool_call({inner})\n```"}


OTHER_SYSTEMS = (
    "You are a helpful assistant.", "You can use these tools:", "你可以使用以下工具：", "你是一个乐于助人的助手。", "Use the tools when they help.",
    "请尽可能好地回答问题。你可以使用以下工具：",
)  # fmt: skip


def system_message(tools: list[Tool], content: str = TOOL_SYSTEM) -> dict[str, Any]:
    """The system message that shows `tools`."""
    return {"role": "system", "content": content, "tools": [t.schema for t in tools]}


def leaves(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """The (key, scalar) pairs of a nested result, in order."""
    if isinstance(value, dict):
        return [pair for k, v in value.items() for pair in leaves(v, str(k))]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [pair for v in value for pair in leaves(v, key)]
    return [(key, value)]


def observation(rng: random.Random, result: dict[str, Any]) -> str:
    """How a tool might hand back `result`: JSON, Python's spelling, nested, or a bare value."""
    roll = rng.random()
    if len(result) == 1 and roll < 0.3:
        return str(next(iter(result.values())))
    if roll < 0.45:
        result = {rng.choice(("result", "data", "current", "response")): result}
    if rng.random() < 0.2:
        return str(result)
    return json.dumps(result, ensure_ascii=False)
