# ruff: noqa: E501 (tables of words and wordings, one entry after the other)
"""Small variations of wording: synonyms, and the slips of people who type fast. Applied to templates, so that
what stands in braces, and with it every value, stays as it is."""

from __future__ import annotations

import random
import re

from recipes.nano.words import Lang

_EN = {
    "show me": "display|let me see|present", "tell me": "let me know|say|inform me about", "find": "look for|locate|discover",
    "look up": "check|search for|consult", "check": "verify|look at|see", "get": "fetch|retrieve|obtain", "give me": "hand me|provide|send me",
    "I want to": "I'd like to|I wish to|I would like to|I plan to", "I need": "I require|I could use|I want", "how much is": "what does it cost for|what's the value of",
    "what is": "what's|what would be|may I know", "what's": "what is|whats", "make": "prepare|build|produce", "create": "make|set up|generate",
    "add": "put|insert|include", "please": "kindly|pls", "compute": "calculate|figure out|determine", "calculate": "compute|work out|figure out",
    "draw": "sketch|plot|make", "plot": "draw|graph|chart", "numbers": "values|figures|data", "remember": "keep in mind|don't forget", "reserve": "book|secure",
    "buy": "purchase|get", "start": "begin|launch", "send": "forward|deliver", "called": "named|with the name", "do you know": "can you tell me|do you remember",
    "can you": "could you|would you|are you able to", "could you": "can you|would you", "today": "now|at the moment|this afternoon", "right now": "currently|at present",
    "where is": "where's|in what place is", "how many": "what number of", "want": "need|wish", "about": "regarding|on", "remove": "delete|drop", "delete": "remove|wipe",
}  # fmt: skip
_ZH = {
    "查询": "查一下|查查|了解|查找", "查一下": "查询|查查|看看|搜一下", "看看": "查看|瞧瞧|了解一下|看一下", "告诉我": "跟我说|给我说说|说一下", "我想": "我要|我打算|我希望|想",
    "我要": "我想|我得|我需要", "帮我": "替我|给我|帮忙", "多少": "几|多大", "怎么样": "如何|咋样|好不好", "如何": "怎么样|怎样", "计算": "算出|算一下|求出", "求": "算|计算|算出",
    "画": "绘制|画出|绘", "设置": "设定|设|定", "播放": "放|放一下", "创建": "新建|建立|生成", "添加": "加入|加上|增加", "是什么": "是啥|是哪个|是什么呢", "今天": "今日|现在|当前",
    "现在": "目前|当前|此刻", "预订": "订|预定|订购", "记住": "记得|请记住", "给我": "帮我|替我", "哪里": "哪儿|什么地方", "发送": "发|寄", "搜索": "搜一下|检索|查找",
    "生成": "产生|给出|来", "这些数": "这几个数|下列数字|这组数", "请": "请你|麻烦", "可以": "能|能够", "删除": "删掉|清除|去掉", "购买": "买|买下",
}  # fmt: skip
_TABLES: dict[Lang, tuple[re.Pattern[str], dict[str, list[str]]]] = {
    "en": (
        re.compile(r"(?<![\w{])(" + "|".join(sorted(_EN, key=len, reverse=True)) + r")(?![\w}])"),
        {k: v.split("|") for k, v in _EN.items()},
    ),
    "zh": (
        re.compile("|".join(sorted(_ZH, key=len, reverse=True))),
        {k: v.split("|") for k, v in _ZH.items()},
    ),
}


def vary(rng: random.Random, template: str, lang: Lang) -> str:
    """The template with some words replaced and, rarely, a typing slip."""
    if rng.random() < 0.4:
        pattern, table = _TABLES[lang]
        template = pattern.sub(lambda m: rng.choice(table[m[0]]) if rng.random() < 0.6 else m[0], template)
    if lang == "en" and rng.random() < 0.05:
        template = _slip(rng, template)
    return template


def _slip(rng: random.Random, template: str) -> str:
    """One letter of one word doubled, dropped or swapped with the next."""
    places = [m.start() for m in re.finditer(r"(?<![\w{])[a-z]{4,}(?![\w}])", template)]
    if not places:
        return template
    at = rng.choice(places) + rng.randint(1, 2)
    a, b = template[at], template[at + 1]
    changed = rng.choice((a + a + b, b, b + a))
    return template[:at] + changed + template[at + 2 :]
