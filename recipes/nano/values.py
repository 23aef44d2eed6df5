# ruff: noqa: E501 (tables of words and wordings, one entry after the other)
"""Random values of many kinds: what users name in their requests and what the model has to copy.

Most come from spaces far too large to memorize (random syllables, random Chinese characters, digits); real
cities, names and words are among them because those are what people will type first.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from recipes.nano import words
from recipes.nano.words import Lang, Split, part

HAN = "".join(
    bytes((high, low)).decode("gb2312")
    for high in range(0xB0, 0xD8)
    for low in range(0xA1, 0xFF)
    if (high, low) < (0xD7, 0xFA)
)
HAN += "".join(sorted(set(words.GIVEN_ZH + words.GIVEN_ZH_HELD + words.SURNAMES) - set(HAN)))
"""The 3,755 Chinese characters of GB2312's first level, which everyday text needs, and those of our names."""

Value = str | int | float | bool | list[int] | list[str]

_ONSETS = [
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "z",
    "br",
    "ch",
    "cl",
    "dr",
    "fl",
    "gr",
    "kr",
    "pl",
    "qu",
    "sh",
    "st",
    "th",
    "tr",
    "sk",
    "sn",
]
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "ea", "ee", "ou", "io", "oo"]
_CODAS = ["", "", "", "n", "r", "s", "l", "m", "t", "x", "ck", "nd", "st", "ng"]


def syllables(rng: random.Random, low: int = 1, high: int = 3) -> str:
    """A word that no dictionary has."""
    count = rng.randint(low, high)
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(count)) + rng.choice(_CODAS)


def han(rng: random.Random, low: int = 2, high: int = 3) -> str:
    """Random Chinese characters."""
    return "".join(rng.choice(HAN) for _ in range(rng.randint(low, high)))


_PAIRED = {
    "city": words.CITIES, "food": words.FOODS, "animal": words.ANIMALS, "job": words.JOBS, "color": words.COLORS,
    "sport": words.SPORTS, "room": words.ROOMS, "language": words.LANGUAGES, "company": words.COMPANIES,
    "thing": words.OBJECTS,
}  # fmt: skip


def _paired(kind: str) -> Callable[[random.Random, Split, Lang], str]:
    def draw(rng: random.Random, split: Split, lang: Lang) -> str:
        return rng.choice(part(_PAIRED[kind], split))[lang == "zh"]

    return draw


def city(rng: random.Random, split: Split, lang: Lang) -> str:
    if rng.random() < 0.3:
        return syllables(rng, 2, 3).capitalize() if lang == "en" else han(rng, 2, 3)
    return _paired("city")(rng, split, lang)


def person(rng: random.Random, split: Split, lang: Lang) -> str:
    if lang == "zh" and rng.random() < 0.85:
        given = words.GIVEN_ZH_HELD if split == "heldout" else words.GIVEN_ZH
        if rng.random() < 0.3:
            given = HAN
        name = "".join(rng.choice(given) for _ in range(rng.choice((1, 2, 2))))
        return name if rng.random() < 0.1 and len(name) == 2 else rng.choice(words.SURNAMES) + name
    if rng.random() < 0.4:
        return syllables(rng, 2, 3).capitalize()
    return rng.choice(part(words.GIVEN, split))


def word(rng: random.Random, split: Split, lang: Lang) -> str:
    if rng.random() < 0.5:
        return syllables(rng, 1, 3) if lang == "en" else han(rng, 2, 3)
    source = rng.choice((words.OBJECTS, words.FIELDS, words.FOODS, words.TOPICS, words.ADJECTIVES))
    return rng.choice(part(source, split))[lang == "zh"]


def phrase(rng: random.Random, split: Split, lang: Lang) -> str:
    """A few words, such as a title or a topic."""
    adjective, noun = (rng.choice(part(t, split)) for t in (words.ADJECTIVES, words.OBJECTS))
    if lang == "en":
        form = rng.choice(("{a} {n}", "the {a} {n}", "{w} {n}", "{n} of {w}", "{a} {w}", "{w} {v}"))
        text = form.format(a=adjective[0], n=noun[0], w=syllables(rng), v=syllables(rng))
        return text.title() if rng.random() < 0.3 else text
    form = rng.choice(("{a}的{n}", "{n}与{w}", "{w}{n}", "{w}的{n}", "{w}"))
    return form.format(a=adjective[1], n=noun[1], w=han(rng, 2, 4))


def code(rng: random.Random, split: Split, lang: Lang) -> str:
    letters = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(1, 3)))
    digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(2, 6)))
    form = rng.choice(("{l}{d}", "{l}-{d}", "{d}", "{d}", "{m}{d}", "{l}{d}{x}", "{l}_{d}"))
    return form.format(l=letters, d=digits, m=letters.lower(), x=rng.choice("ABCDEFXYZ"))


def symbol(rng: random.Random, split: Split, lang: Lang) -> str:
    if rng.random() < 0.4:
        return "".join(rng.choice("0123456789") for _ in range(rng.choice((5, 6, 6))))
    if rng.random() < 0.3:
        return rng.choice(("AAPL", "TSLA", "MSFT", "GOOG", "AMZN", "NVDA", "BABA"))
    return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(2, 5)))


def integer(rng: random.Random, split: Split, lang: Lang) -> int:
    return rng.choice(
        (rng.randint(1, 10), rng.randint(1, 100), rng.randint(10, 999), rng.randint(100, 99999))
    )


def small(rng: random.Random, split: Split, lang: Lang) -> int:
    return rng.randint(1, 12) if rng.random() < 0.8 else rng.randint(13, 60)


def decimal(rng: random.Random, split: Split, lang: Lang) -> float | int:
    if rng.random() < 0.4:
        return integer(rng, split, lang)
    return round(rng.uniform(0.1, rng.choice((10, 100, 1000))), rng.choice((1, 2))) + 0.0


def date(rng: random.Random, split: Split, lang: Lang) -> str:
    year, month, day = rng.randint(1950, 2035), rng.randint(1, 12), rng.randint(1, 28)
    if rng.random() < 0.5:
        return f"{year}-{month:02d}-{day:02d}"
    if lang == "zh":
        forms = (
            f"{month}月{day}日",
            "明天",
            "后天",
            "今天",
            "下周一",
            "下周五",
            "周六",
            f"{year}年{month}月{day}日",
            "昨天",
        )
        return rng.choice(forms)
    months = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ]
    weekdays = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    spoken = (
        f"{months[month - 1]} {day}",
        "tomorrow",
        "today",
        f"next {rng.choice(weekdays)}",
        rng.choice(weekdays),
    )
    return rng.choice(spoken)


def clock(rng: random.Random, split: Split, lang: Lang) -> str:
    hour, minute = rng.randint(0, 23), rng.choice((0, 15, 30, 45, rng.randint(0, 59)))
    if rng.random() < 0.6:
        return f"{hour}:{minute:02d}" if rng.random() < 0.6 else f"{hour:02d}:{minute:02d}"
    if lang == "zh":
        return rng.choice(
            (f"上午{hour % 12 + 1}点", f"下午{hour % 12 + 1}点", f"晚上{hour % 12 + 1}点", f"{hour}点半")
        )
    return rng.choice((f"{hour % 12 + 1} am", f"{hour % 12 + 1} pm", f"{hour % 12 + 1}pm", "noon"))


def email(rng: random.Random, split: Split, lang: Lang) -> str:
    host = rng.choice((syllables(rng), "example", "mail"))
    return f"{person(rng, split, 'en').lower()}{rng.choice(('', str(rng.randint(1, 99))))}@{host}.{rng.choice(('com', 'org', 'cn'))}"


def phone(rng: random.Random, split: Split, lang: Lang) -> str:
    return "".join(rng.choice("0123456789") for _ in range(rng.choice((4, 7, 8, 11))))


def url(rng: random.Random, split: Split, lang: Lang) -> str:
    return f"https://{syllables(rng, 2, 3)}.{rng.choice(('com', 'org', 'net', 'cn', 'io'))}/{syllables(rng)}"


def file(rng: random.Random, split: Split, lang: Lang) -> str:
    ending = rng.choice(("txt", "pdf", "csv", "png", "docx", "mp3", "json"))
    return f"{syllables(rng)}{rng.choice(('', '_' + syllables(rng), str(rng.randint(1, 99))))}.{ending}"


def sentence(rng: random.Random, split: Split, lang: Lang) -> str:
    """A short message to send, translate or write down."""
    n = phrase(rng, split, lang)
    if lang == "en":
        forms = (
            "I will be late", "the meeting is at {t}", "see you at {t}", "happy birthday {p}", "bring the {n}", "good night",
            "I miss you", "call me back", "buy some {f}", "thank you for the {n}", "where is the {n}", "hello {p}", "I love {f}",
            "dinner is ready", "please feed the {a}", "the {n} is here", "pay the rent", "water the plants", "{n}",
        )  # fmt: skip
    else:
        forms = (
            "我晚点到", "会议在{t}开始", "{t}见", "{p}生日快乐", "记得带{n}", "晚安", "我想你了", "给我回电话", "买一些{f}", "谢谢你的{n}",
            "{n}在哪里", "你好{p}", "我爱{f}", "晚饭好了", "请喂{a}", "{n}到了", "交房租", "给植物浇水", "{n}",
        )  # fmt: skip
    return rng.choice(part(forms, split)).format(
        n=n, t=clock(rng, split, lang), p=person(rng, split, lang),
        f=_paired("food")(rng, split, lang), a=_paired("animal")(rng, split, lang),
    )  # fmt: skip


def currency(rng: random.Random, split: Split, lang: Lang) -> str:
    code_, name = rng.choice(part(words.CURRENCIES, split))
    return name if lang == "zh" and rng.random() < 0.5 else code_


def numbers(rng: random.Random, split: Split, lang: Lang) -> list[int]:
    top = rng.choice((10, 100, 1000))
    return [rng.randint(1, top) for _ in range(rng.randint(2, 6))]


def _one_of(en: str, zh: str) -> Callable[[random.Random, Split, Lang], str]:
    choices = {"en": tuple(en.split(",")), "zh": tuple(zh.split(","))}

    def draw(rng: random.Random, split: Split, lang: Lang) -> str:
        return rng.choice(choices[lang])

    return draw


def expression(rng: random.Random, split: Split, lang: Lang) -> str:
    """An arithmetic expression as one types it."""
    top = rng.choice((10, 100, 1000, 10000))
    terms = [str(rng.randint(1, top)) for _ in range(rng.choice((2, 2, 2, 3)))]
    gap = rng.choice(("", "", " "))
    text = terms[0]
    for term in terms[1:]:
        text += gap + rng.choice("+-*/") + gap + term
    return text


def topic(rng: random.Random, split: Split, lang: Lang) -> str:
    if rng.random() < 0.4:
        return word(rng, split, lang)
    return rng.choice(part(words.TOPICS, split))[lang == "zh"]


KINDS: dict[str, Callable[[random.Random, Split, Lang], Value]] = {
    **{kind: _paired(kind) for kind in _PAIRED},
    "city": city, "person": person, "word": word, "phrase": phrase, "code": code, "symbol": symbol, "int": integer,
    "small": small, "float": decimal, "date": date, "time": clock, "email": email, "phone": phone, "url": url,
    "expr": expression, "topic": topic, "onoff": _one_of("on,off", "打开,关闭"),
    "cond": _one_of("sunny,cloudy,rainy,snowy,windy,foggy,clear", "晴,多云,小雨,大雪,有风,雾,阴,晴朗"),
    "sign": _one_of(
        "Aries,Taurus,Gemini,Cancer,Leo,Virgo,Libra,Scorpio,Sagittarius,Capricorn,Aquarius,Pisces",
        "白羊座,金牛座,双子座,巨蟹座,狮子座,处女座,天秤座,天蝎座,射手座,摩羯座,水瓶座,双鱼座",
    ),
    "voice": _one_of("male,female,deep,soft,robot,child", "男声,女声,童声,低沉的声音,温柔的声音"),
    "unit": _one_of("km,miles,meters,feet,kg,pounds,grams,inches,liters,gallons,celsius,fahrenheit,hours,minutes",
                    "公里,英里,米,英尺,公斤,磅,克,英寸,升,加仑,摄氏度,华氏度,小时,分钟"),
    "command": _one_of("ls,pwd,date,whoami,ls -l,df -h,uname -a,echo hello,ps aux,uptime,free -m", "ls,pwd,date,whoami,ls -l,df -h,uptime"),
    "ok": _one_of("success,ok,done,sent,confirmed", "success,ok,成功,完成,已确认"),
    "bool": lambda rng, split, lang: rng.random() < 0.5,
    "file": file, "sentence": sentence, "currency": currency, "numbers": numbers,
}  # fmt: skip
"""A value of each kind: `KINDS[kind](rng, split, lang)`."""

JSON_TYPES = {"bool": "boolean", "int": "integer", "small": "integer", "float": "number", "numbers": "array"}
"""The JSON type of each kind's values; "string" for all others."""
