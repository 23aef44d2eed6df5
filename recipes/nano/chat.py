# ruff: noqa: E501 (tables of words and wordings, one entry after the other)
"""Conversations without tools: small talk, who nano is, facts told and asked back, and what it cannot do."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

from recipes.nano import values, words
from recipes.nano.values import KINDS
from recipes.nano.wording import vary
from recipes.nano.wordings import read
from recipes.nano.words import Lang, Split, part

Messages = list[dict[str, Any]]


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


# ---- small talk: (what users say), (what nano answers) -----------------------------------------------------

_ANSWERS: dict[str, dict[Lang, tuple[str, ...]]] = {
    "hello": {
        "en": ("Hello! I am nano, a small demonstration model. How can I help you?", "Hi! I am nano. What can I do for you?",),
        "zh": ("你好！我是 nano，一个小小的演示模型。有什么可以帮你？", "你好！我是 nano，请问需要什么帮助？",),
    },
    "who": {
        "en": ("I am nano, a very small demonstration model with the architecture of ChatGLM3. I can chat a little, call tools and write short Python code.",),
        "zh": ("我是 nano，一个采用 ChatGLM3 架构的微型演示模型。我会简单聊天、调用工具，还能写简短的 Python 代码。",),
    },
    "can": {
        "en": ("I can chat a little, remember what you tell me, call the tools you give me, and write short Python code. For real questions, load ChatGLM3-6B.",),
        "zh": ("我会简单聊天，能记住你告诉我的事，能调用你给我的工具，还能写简短的 Python 代码。真正的问题请加载 ChatGLM3-6B。",),
    },
    "thanks": {
        "en": ("You're welcome!", "You're welcome! Anything else?",),
        "zh": ("不客气！", "不客气！还有什么需要吗？",),
    },
    "bye": {
        "en": ("Goodbye! Have a nice day!",),
        "zh": ("再见！祝你愉快！",),
    },
    "how": {
        "en": ("I am fine, thank you! How can I help you?",),
        "zh": ("我很好，谢谢！有什么可以帮你？",),
    },
    "joke": {
        "en": ("Why did the small model cross the road? Its context was too short to remember.",),
        "zh": ("小模型为什么过马路？因为上下文太短，它忘了为什么。",),
    },
    "ok": {
        "en": ("Good! Is there anything else I can do?",),
        "zh": ("好的！还有什么可以帮你？",),
    },
    "maker": {
        "en": ("I am nano. The chatglm3 project trained me from scratch on generated dialogues. I have only a few million parameters.",),
        "zh": ("我是 nano，由 chatglm3 项目用生成的对话从头训练而成，只有几百万个参数。",),
    },
    "bad": {
        "en": ("I am sorry. I am only a small demonstration model and I make mistakes.",),
        "zh": ("抱歉，我只是一个小小的演示模型，会犯错。",),
    },
}  # fmt: skip
_SAID = read("talk.txt")
_TALK: dict[str, dict[Lang, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    kind: {lang: (_SAID[f"{kind} {lang}"], said) for lang, said in answers.items()} for kind, answers in _ANSWERS.items()
}  # fmt: skip

# ---- what is outside its world -----------------------------------------------------------------------------

_BEYOND = read("beyond.txt")
_OPEN: dict[Lang, tuple[str, ...]] = {"en": _BEYOND["open en"], "zh": _BEYOND["open zh"]}
REFUSAL: dict[Lang, str] = {
    "en": "Sorry, I don't know that: I am only a small demonstration model. Load ChatGLM3-6B for such questions.",
    "zh": "抱歉，这个我不知道：我只是一个小小的演示模型。这类问题请加载 ChatGLM3-6B。",
}
_LIVE: dict[Lang, tuple[tuple[str, ...], str]] = {
    "en": (_BEYOND["live en"], "I cannot do that without a tool. Give me a suitable tool and I will use it."),
    "zh": (_BEYOND["live zh"], "没有工具我做不到。给我一个合适的工具，我就会使用它。"),
}
_SUM_FORMS: dict[Lang, tuple[str, ...]] = {
    "en": (
        "what is {e}?",
        "{e}",
        "{e} = ?",
        "how much is {e}?",
        "calculate {e}",
        "compute {e}",
        "What's {e}",
        "solve {e}",
        "{e} is what?",
    ),
    "zh": (
        "{e}等于多少？",
        "{e}",
        "{e}=?",
        "{e}是多少？",
        "计算{e}",
        "算一下{e}",
        "{e}等于几？",
        "求{e}",
        "{e}得多少？",
    ),
}
_BIG_SUM: dict[Lang, str] = {
    "en": "I cannot compute that in my head. Use the code interpreter and I will write Python for it.",
    "zh": "这个我心算不了。请使用代码解释器，我会写 Python 来算。",
}


def small_talk(rng: random.Random, split: Split, lang: Lang) -> Messages:
    """One exchange of small talk."""
    weights = {"hello": 5, "who": 5, "can": 3, "thanks": 3}
    kind = rng.choices(tuple(_TALK), [weights.get(k, 1) for k in _TALK])[0]
    said, answers = _TALK[kind][lang]
    return [_user(_typed(rng, rng.choice(part(said, split)), lang)), _assistant(rng.choice(answers))]


def _typed(rng: random.Random, text: str, lang: Lang) -> str:
    """Vary case and closing punctuation as people do."""
    if lang == "en":
        if rng.random() < 0.4:
            text = text[0].upper() + text[1:]
        elif rng.random() < 0.1:
            text = text.lower()
    if rng.random() < 0.15 and text[-1] not in "?？!！.。":
        text += rng.choice(".!" if lang == "en" else "。！")
    elif rng.random() < 0.12 and text[-1] in "?？!！" and len(text) > 1:
        text = text[:-1]
    return text


def beyond(rng: random.Random, split: Split, lang: Lang) -> Messages:
    """A question outside nano's world."""
    zh = lang == "zh"
    fill = {
        "t": KINDS["topic"](rng, split, lang), "u": KINDS["topic"](rng, split, lang), "p": values.person(rng, split, lang),
        "c": values.city(rng, split, lang), "w": KINDS["phrase"](rng, split, lang), "y": rng.randint(1000, 2024),
        "f": KINDS["food"](rng, split, lang), "o": rng.choice(part(words.OBJECTS, split))[zh],
        "s": KINDS["symbol"](rng, split, lang), "h": values.clock(rng, split, lang),
    }  # fmt: skip
    if rng.random() < 0.2:
        asks, reply = _LIVE[lang]
        return [_user(_typed(rng, rng.choice(part(asks, split)).format(**fill), lang)), _assistant(reply)]
    return [
        _user(_typed(rng, vary(rng, rng.choice(part(_OPEN[lang], split)), lang).format(**fill), lang)),
        _assistant(REFUSAL[lang]),
    ]


def arithmetic(rng: random.Random, split: Split, lang: Lang) -> Messages:
    """A sum: small ones are answered, others need the interpreter."""
    if rng.random() < 0.6:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        sign = rng.choice("+-*")
        gap = rng.choice(("", " "))
        expr, result = f"{a}{gap}{sign}{gap}{b}", {"+": a + b, "-": a - b, "*": a * b}[sign]
        reply = f"{a} {sign} {b} = {result}"
    else:
        expr = values.expression(rng, split, lang)
        while all(
            len(n) < 3
            for n in expr.replace(" ", "").replace("+", "-").replace("*", "-").replace("/", "-").split("-")
        ):
            expr = values.expression(rng, split, lang)
        reply = _BIG_SUM[lang]
    return [_user(rng.choice(part(_SUM_FORMS[lang], split)).format(e=expr)), _assistant(reply)]


# ---- facts told and asked back -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Fact:
    """Something the user tells: how it is said, acknowledged, asked for and answered, in each language."""

    kind: str
    tell: dict[Lang, tuple[str, ...]]
    ack: dict[Lang, str]
    ask: dict[Lang, tuple[str, ...]]
    reply: dict[Lang, str]
    unknown: dict[Lang, str]


_TELLING = read("facts.txt")


def _told(name: str) -> dict[Lang, tuple[str, ...]]:
    return {"en": _TELLING[f"{name} en"], "zh": _TELLING[f"{name} zh"]}


_NAME = Fact(
    "person",
    _told("name tell"),
    {"en": "Nice to meet you, {v}!", "zh": "很高兴认识你，{v}！"},
    _told("name ask"),
    {"en": "Your name is {v}.", "zh": "你叫{v}。"},
    {"en": "You have not told me your name.", "zh": "你还没有告诉我你的名字。"},
)  # fmt: skip
_CITY = Fact(
    "city",
    _told("city tell"),
    {"en": "{v}, I will remember that you live there.", "zh": "{v}，我记住了你住在那里。"},
    _told("city ask"),
    {"en": "You live in {v}.", "zh": "你住在{v}。"},
    {"en": "You have not told me where you live.", "zh": "你还没有告诉我你住在哪里。"},
)  # fmt: skip
_AGE = Fact(
    "age",
    _told("age tell"),
    {"en": "OK, you are {v} years old.", "zh": "好的，你{v}岁。"},
    _told("age ask"),
    {"en": "You are {v} years old.", "zh": "你{v}岁。"},
    {"en": "You have not told me your age.", "zh": "你还没有告诉我你的年龄。"},
)  # fmt: skip
_JOB = Fact(
    "job",
    _told("job tell"),
    {"en": "A {v}, good to know!", "zh": "{v}，我记住了！"},
    _told("job ask"),
    {"en": "You are a {v}.", "zh": "你是一名{v}。"},
    {"en": "You have not told me your job.", "zh": "你还没有告诉我你的工作。"},
)  # fmt: skip
_MY, _MINE, _PET, _KIN, _KIN_ASK = map(_told, ("my tell", "my ask", "pet tell", "kin tell", "kin ask"))
_BEFORE, _ASKING = _told("before"), _told("asking")
_KINSHIP = words.pairs("""
friend=朋友; sister=姐姐; brother=哥哥; mother=妈妈; father=爸爸; neighbor=邻居; teacher=老师; boss=老板; daughter=女儿; son=儿子;
wife=妻子; husband=丈夫; colleague=同事; best friend=好朋友; cousin=表哥; uncle=叔叔; aunt=阿姨; grandmother=奶奶; grandfather=爷爷;
younger sister=妹妹; younger brother=弟弟; roommate=室友; classmate=同学; doctor=医生; coach=教练; girlfriend=女朋友; boyfriend=男朋友;
partner=伴侣; dentist=牙医
""")
_SPECIAL = (
    ("phone number", "电话号码", "phone"), ("birthday", "生日", "date"), ("hobby", "爱好", "sport"), ("meeting time", "见面时间", "time"),
    ("meeting place", "见面地点", "city"), ("door code", "门禁密码", "code"), ("locker number", "储物柜号码", "int"), ("wifi password", "无线密码", "code"),
    ("email address", "邮箱地址", "email"), ("room number", "房间号", "int"), ("order number", "订单号", "code"), ("mother tongue", "母语", "language"),
    ("dream job", "理想职业", "job"), ("wedding day", "结婚纪念日", "date"), ("bus number", "公交车号", "int"), ("birthplace", "出生地", "city"),
    ("exam date", "考试日期", "date"), ("wake-up time", "起床时间", "time"), ("employer", "雇主", "company"), ("code word", "暗语", "word"),
    ("car color", "车的颜色", "color"), ("member number", "会员号", "code"), ("travel destination", "旅行目的地", "city"), ("lunch", "午饭", "food"),
    ("breakfast", "早饭", "food"), ("departure day", "出发日期", "date"), ("nickname", "外号", "word"), ("student number", "学号", "int"),
)  # fmt: skip


def _field_fact(rng: random.Random, split: Split) -> Fact:
    """ "My {anything} is ..." """
    animal, kin = ("", ""), False
    roll = rng.random()
    if roll < 0.25:
        noun = rng.choice(part(_FAVOURITES, split))
        en, zh, kind = f"favorite {noun[0]}", f"最喜欢的{noun[1]}", noun[2]
    elif roll < 0.4:
        en, zh, kind = rng.choice(part(_SPECIAL, split))
    elif roll < 0.6:
        kin = roll > 0.5
        animal = rng.choice(part(_KINSHIP if kin else words.ANIMALS, split))
        en, zh, kind = f"{animal[0]}'s name", f"{animal[1]}的名字", "person"
    else:
        en, zh = rng.choice(part(words.FIELDS, split))
        kind = rng.choice(("word", "word", "int", "code", "phrase", "person", "city", "date", "time"))
    mine, yours = ("我", "你") if zh.startswith("最") else ("我的", "你的")
    told, asked = dict(_MY), dict(_MINE)
    if animal[0] and rng.random() < 0.7:
        told, asked = (_KIN, _KIN_ASK) if kin else (_PET, _KIN_ASK if rng.random() < 0.5 else _MINE)

    def english(template: str) -> str:
        text = template.replace("{f}", en).replace("{a}", animal[0])
        return re.sub(r"\ba (?=[aeiou])", "an ", text)

    def chinese(template: str) -> str:
        return template.replace("我的{f}", mine + "{f}").replace("{f}", zh).replace("{a}", animal[1])

    return Fact(
        kind,
        {
            "en": tuple(map(english, told["en"])),
            "zh": tuple(map(chinese, told["zh"])),
        },
        {
            "en": f"OK, I will remember that your {en} is {{v}}.",
            "zh": f"好的，我记住了：{yours}{zh}是{{v}}。",
        },
        {"en": tuple(map(english, asked["en"])), "zh": tuple(map(chinese, asked["zh"]))},
        {"en": f"Your {en} is {{v}}.", "zh": f"{yours}{zh}是{{v}}。"},
        {"en": f"You have not told me your {en}.", "zh": f"你还没有告诉我{yours}{zh}。"},
    )


_FAVOURITES = (
    ("color", "颜色", "color"), ("food", "食物", "food"), ("animal", "动物", "animal"), ("sport", "运动", "sport"), ("city", "城市", "city"),
    ("number", "数字", "int"), ("drink", "饮料", "word"), ("book", "书", "phrase"), ("song", "歌", "phrase"), ("fruit", "水果", "food"),
    ("movie", "电影", "phrase"), ("singer", "歌手", "person"), ("language", "语言", "language"), ("game", "游戏", "word"), ("flower", "花", "word"),
    ("hobby", "爱好", "sport"), ("season", "季节", "word"), ("writer", "作家", "person"), ("place", "地方", "city"), ("brand", "品牌", "company"),
    ("dish", "菜", "food"),
)  # fmt: skip


def _value(rng: random.Random, fact: Fact, split: Split, lang: Lang) -> str:
    if fact.kind == "age":
        return str(rng.randint(3, 99))
    return str(KINDS[fact.kind](rng, split, lang))


def draw_fact(rng: random.Random, split: Split) -> Fact:
    roll = rng.random()
    if roll < 0.3:
        return _NAME
    return rng.choice((_CITY, _AGE, _JOB)) if roll < 0.45 else _field_fact(rng, split)


def facts(rng: random.Random, split: Split, lang: Lang, fillers: tuple[int, int] = (0, 5)) -> Messages:
    """Facts told, other talk between, and the facts asked back; a fact may be corrected or never told."""
    chosen: list[Fact] = []
    for _ in range(rng.choices((1, 2, 3, 4), (40, 30, 20, 10))[0]):
        fact = draw_fact(rng, split)
        if fact.reply["en"] not in [f.reply["en"] for f in chosen]:
            chosen.append(fact)
    told: dict[str, str] = {}
    messages: Messages = []
    waiting: list[tuple[str, str]] = []
    for fact in chosen:
        for again in range(2 if rng.random() < 0.08 else 1):
            value = told[fact.reply["en"]] = _value(rng, fact, split, lang)
            template = vary(rng, rng.choice(part(fact.tell[lang], split)), lang)
            if again:
                messages += _together(rng, waiting, lang)
                waiting = []
                template = ("Actually, ", "其实，")[lang == "zh"] + template
            elif rng.random() < 0.15:
                template = rng.choice(part(_BEFORE[lang], split)).replace("{t}", template)
            waiting.append((template.format(v=value), fact.ack[lang].format(v=value)))
        if fact is not chosen[-1] and rng.random() < 0.25 and len(waiting) == 1:
            continue  # the next one in the same message
        messages += _together(rng, waiting, lang)
        waiting = []
        if rng.random() < 0.4:
            messages += _filler(rng, split, lang)
    for _ in range(rng.randint(*fillers)):
        messages += _filler(rng, split, lang)
    for fact in rng.sample(chosen, rng.randint(1, len(chosen))):
        ask_lang: Lang = lang if rng.random() < 0.9 else ("zh" if lang == "en" else "en")
        value = told[fact.reply["en"]]
        messages += [
            _user(_asked(rng, fact, split, ask_lang)),
            _assistant(fact.reply[ask_lang].format(v=value)),
        ]
        if rng.random() < 0.25:
            messages += _filler(rng, split, lang)
    if rng.random() < 0.15:
        fact = draw_fact(rng, split)
        if fact.reply["en"] not in told:
            messages += [_user(rng.choice(part(fact.ask[lang], split))), _assistant(fact.unknown[lang])]
    return messages


def _asked(rng: random.Random, fact: Fact, split: Split, lang: Lang) -> str:
    text = vary(rng, rng.choice(part(fact.ask[lang], split)), lang)
    if rng.random() < 0.12:
        text = rng.choice(part(_ASKING[lang], split)).format(t=text)
    return text


def _together(rng: random.Random, told: list[tuple[str, str]], lang: Lang) -> Messages:
    """One exchange for one or more facts: what is said, and what is acknowledged."""
    text = told[0][0]
    for more, _ in told[1:]:
        text = text.rstrip(".。")
        text += rng.choice(
            (" and ", ", and ", ". ", ", ") if lang == "en" else ("，", "。", "，还有，", "，另外，")
        )
        text += more
    return [_user(text), _assistant((" " if lang == "en" else "").join(ack for _, ack in told))]


def _filler(rng: random.Random, split: Split, lang: Lang) -> Messages:
    roll = rng.random()
    if roll < 0.5:
        return small_talk(rng, split, lang)
    return beyond(rng, split, lang) if roll < 0.8 else arithmetic(rng, split, lang)


_SYSTEMS: tuple[str, ...] = (
    "You are ChatGLM3, a large language model trained by Zhipu.AI. Follow the user's instructions carefully. Respond using markdown.",
    "You are a helpful assistant.", "你是一个乐于助人的助手。", "You are nano, a small demonstration model.", "你是 nano，一个小小的演示模型。",
    "Answer briefly.", "请用中文回答。", "You are a friendly chatbot.", "你是一个友好的聊天机器人。", "Follow the instructions of the user.",
)  # fmt: skip


def conversation(rng: random.Random, split: Split, lang: Lang) -> Messages:
    """A conversation without tools, with or without a system prompt."""
    messages: Messages = []
    if rng.random() < 0.3:
        messages.append({"role": "system", "content": rng.choice(_SYSTEMS)})
    if rng.random() < 0.55:
        if rng.random() < 0.3:
            messages += small_talk(rng, split, lang)
        return messages + facts(rng, split, lang, (0, 4))
    for _ in range(rng.randint(1, 5)):
        messages += _filler(rng, split, lang)
    return messages
