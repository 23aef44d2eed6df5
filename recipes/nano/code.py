# ruff: noqa: E501 (tables of words and wordings, one entry after the other)
"""Conversations with the code interpreter: arithmetic, lists, text, plots and files, answered from the output.

Every task carries the code that solves it and a function that computes what the code prints, so that no code
has to run while data is generated.
"""

from __future__ import annotations

import math
import random
import re
import statistics
from dataclasses import dataclass
from typing import Any

from recipes.nano import chat, values
from recipes.nano.wording import vary
from recipes.nano.wordings import read
from recipes.nano.words import Lang, Split, part

Messages = list[dict[str, Any]]

SYSTEMS: tuple[str, ...] = (
    "你是一位智能AI助手，你叫ChatGLM，你连接着一台电脑，但请注意不能联网。在使用Python解决任务时，你可以运行代码并得到结果，如果运行结果有错误，"
    "你需要尽可能对代码进行改进。你可以处理用户上传到电脑上的文件，文件默认存储路径是/mnt/data/。",
    "You are a helpful assistant connected to a computer without internet access. You can run Python code and see its output. "
    "Uploaded files are in /mnt/data/.",
    "你连接着一台电脑，可以运行Python代码。文件在/mnt/data/。",
    "You can run Python code with the interpreter. Files are in /mnt/data.",
    "你是一个代码解释器，可以用Python解决问题。",
    "You are a code interpreter. Solve tasks with Python.",
    "You are an intelligent AI assistant called ChatGLM. You are connected to a computer, but it has no internet access. When you solve "
    "tasks with Python, you can run code and get its result; if the result has errors, improve the code. You can work with the files that "
    "users upload, which are stored in /mnt/data/.",
)


@dataclass(frozen=True)
class Task:
    """Something to compute: the request, the code, and what the code prints."""

    text: str
    code: str
    output: str
    answer: str


def number(value: float) -> str:
    """As Python prints it."""
    return str(value)


_TABLES = read("code.txt")


def _table(name: str) -> dict[Lang, tuple[str, ...]]:
    return {"en": _TABLES[f"{name} en"], "zh": _TABLES[f"{name} zh"]}


# ---- expressions: how they are said, and the python, over a and b ------------------------------------------

_BINARY = tuple(
    (
        _TABLES[f"{sign} en"],
        _TABLES[f"{sign} zh"],
        "{a} * {b} / 100" if sign == "%%" else f"{{a}} {sign} {{b}}",
    )
    for sign in ("+", "-", "*", "/", "**", "%", "%%")
)
_WORD_PROBLEMS = {sign: _table(f"word {sign}") for sign in "+-*/"}
_ASK_VALUE = _table("ask")


def _say(rng: random.Random, split: Split, lang: Lang, expression: str) -> str:
    text = vary(rng, rng.choice(part(_ASK_VALUE[lang], split)), lang).format(e=expression)
    if lang == "en" and rng.random() < 0.6:
        text = text[0].upper() + text[1:]
    return text


def _result(value: str, lang: Lang) -> str:
    return f"The result is {value}." if lang == "en" else f"结果是 {value}。"


def _named(name: str, value: str, lang: Lang) -> str:
    return f"The {name} is {value}." if lang == "en" else f"{name}是 {value}。"


def _operand(rng: random.Random) -> int | float:
    top = rng.choice((10, 100, 100, 1000, 100000))
    return (
        rng.randint(1, top) if rng.random() < 0.8 else round(rng.uniform(0, top), rng.choice((1, 2))) or 0.5
    )


def _word_problem(rng: random.Random, split: Split, lang: Lang) -> Task:
    """A small story with two numbers."""
    sign = rng.choice(tuple(_WORD_PROBLEMS))
    a, b = rng.randint(2, rng.choice((20, 100, 1000))), rng.randint(2, rng.choice((12, 50, 200)))
    if sign in "-/" and a < b:
        a, b = b, a
    text = vary(rng, rng.choice(part(_WORD_PROBLEMS[sign][lang], split)), lang).format(a=a, b=b)
    if lang == "en" and rng.random() < 0.6:
        text = text[0].upper() + text[1:]
    return _printed(text, f"{a} {sign} {b}", lang)


def arithmetic(rng: random.Random, split: Split, lang: Lang) -> Task:
    if rng.random() < 0.2:
        return _word_problem(rng, split, lang)
    if rng.random() < 0.35:
        expression = values.expression(rng, split, lang)
        if rng.random() < 0.4:
            expression = _parenthesized(rng)
        expr = expression.replace(" ", "")
        code, said = expr, expression
        if rng.random() < 0.15:
            said = expression.replace("*", "×").replace("/", "÷")
    else:
        en, zh, python = rng.choice(_BINARY)
        a, b = _operand(rng), _operand(rng)
        if "**" in python:
            a, b = rng.randint(2, 30), rng.randint(2, 12)
        elif "%" in python or "100" in python:
            a, b = rng.randint(10, 9999), rng.randint(2, 99)
        code = python.format(a=a, b=b)
        forms = en if lang == "en" else zh
        said = rng.choice(part(forms, split)).format(a=a, b=b)
        if lang == "en" and said.startswith(
            ("add ", "subtract ", "divide ", "multiply ", "raise ", "take ", "what ", "split ", "deduct ")
        ):
            return _printed(said[0].upper() + said[1:] if rng.random() < 0.6 else said, code, lang)
        if said.startswith(("把", "从", "用")) and rng.random() < 0.5:
            return _printed(said, code, lang)
    return _printed(_say(rng, split, lang, said), code, lang)


def _parenthesized(rng: random.Random) -> str:
    a, b, c = (str(rng.randint(1, rng.choice((10, 100, 1000)))) for _ in range(3))
    x, y = rng.choice("+-*"), rng.choice("+-*/")
    return rng.choice((f"({a}{x}{b}){y}{c}", f"{c}{y}({a}+{b})", f"({a} {x} {b}) {y} {c}"))


def _printed(text: str, code: str, lang: Lang) -> Task:
    value = number(eval(code, {"__builtins__": {}}))  # our own arithmetic, not a model's
    return Task(text, f"print({code})", value, _result(value, lang))


# ---- functions of one number -------------------------------------------------------------------------------

_UNARY = (
    ("square root", "平方根", "import math\nprint(math.sqrt({a}))", math.sqrt),
    ("factorial", "阶乘", "import math\nprint(math.factorial({a}))", math.factorial),
    ("square", "平方", "print({a} ** 2)", lambda a: a**2),
    ("cube", "立方", "print({a} ** 3)", lambda a: a**3),
    ("natural logarithm", "自然对数", "import math\nprint(math.log({a}))", math.log),
    ("sine", "正弦", "import math\nprint(math.sin({a}))", math.sin),
    ("binary form", "二进制", "print(bin({a}))", bin),
    ("hexadecimal form", "十六进制", "print(hex({a}))", hex),
    ("cosine", "余弦", "import math\nprint(math.cos({a}))", math.cos),
    ("absolute value", "绝对值", "print(abs({a}))", abs),
)  # fmt: skip


def unary(rng: random.Random, split: Split, lang: Lang) -> Task:
    en, zh, code, compute = rng.choice(_UNARY)
    a = rng.randint(2, 25) if en == "factorial" else rng.randint(2, rng.choice((100, 10000)))
    said = f"the {en} of {a}" if lang == "en" else f"{a}的{zh}"
    value = str(compute(a))
    return Task(
        _say(rng, split, lang, said), code.format(a=a), value, _named(en if lang == "en" else zh, value, lang)
    )


# ---- lists -------------------------------------------------------------------------------------------------

_LIST = (
    (("mean", "average", "arithmetic mean", "mean value", "average value", "arithmetic average", "avg"), ("平均值", "平均数", "均值", "算术平均数", "平均", "算术平均值"), "import numpy as np\nprint(np.mean({l}))", "mean"),
    (("median", "middle value", "median value"), ("中位数", "中位值", "中值"), "import numpy as np\nprint(np.median({l}))", "median"),
    (("standard deviation", "std", "standard dev", "stdev", "std deviation", "population standard deviation"), ("标准差", "标准偏差", "总体标准差"), "import numpy as np\nprint(np.std({l}))", "std"),
    (("variance", "var", "population variance"), ("方差", "总体方差"), "import numpy as np\nprint(np.var({l}))", "var"),
    (("sum", "total", "total sum", "grand total", "sum total"), ("总和", "和", "合计", "总数", "累加和", "总计"), "print(sum({l}))", "sum"),
    (("maximum", "max", "largest number", "biggest number", "highest value", "greatest number", "largest value", "peak"), ("最大值", "最大数", "最大的数", "最高值", "最大的一个"), "print(max({l}))", "max"),
    (("minimum", "min", "smallest number", "lowest value", "least value", "smallest value"), ("最小值", "最小数", "最小的数", "最低值", "最小的一个"), "print(min({l}))", "min"),
    (("sorted list", "sorted order", "ascending order", "increasing order", "sorted version"), ("升序排列", "从小到大的顺序", "排序结果", "升序结果", "从小到大排列"), "print(sorted({l}))", "sorted"),
    (("length", "number of elements", "count", "number of entries", "number of items", "size"), ("长度", "元素个数", "个数", "元素数量", "数量"), "print(len({l}))", "len"),
    (("range", "spread", "difference between maximum and minimum"), ("极差", "最大值与最小值之差"), "print(max({l}) - min({l}))", "range"),
    (("reverse", "reversed list", "reverse order", "backward order"), ("倒序", "反转结果", "逆序", "反序"), "print({l}[::-1])", "reverse"),
    (("product", "total product"), ("乘积", "积", "连乘积"), "import math\nprint(math.prod({l}))", "prod"),
)  # fmt: skip
_COMPUTE = {
    "mean": lambda x: _float(statistics.fmean(x)), "median": lambda x: _float(statistics.median(x)), "std": lambda x: _float(statistics.pstdev(x)),
    "var": lambda x: _float(statistics.pvariance(x)), "sum": lambda x: str(sum(x)), "max": lambda x: str(max(x)), "min": lambda x: str(min(x)),
    "sorted": lambda x: str(sorted(x)), "len": lambda x: str(len(x)), "range": lambda x: str(max(x) - min(x)),
    "reverse": lambda x: str(x[::-1]), "prod": lambda x: str(math.prod(x)),
}  # fmt: skip
_OF_LIST, _STORY = _table("of list"), _table("story")


def _float(value: float) -> str:
    return str(float(value))


def _numbers(rng: random.Random) -> list[int | float]:
    count = rng.choice((2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 10, 13))
    top = rng.choice((10, 10, 100, 1000))
    if rng.random() < 0.2:
        return [round(rng.uniform(0, top), 1) for _ in range(count)]
    return [rng.randint(0 if top > 10 else 1, top) for _ in range(count)]


def _spell(rng: random.Random, numbers: list[int | float], lang: Lang) -> str:
    """A list as people type it."""
    roll = rng.random()
    if roll < 0.4:
        return str(numbers)
    if roll < 0.5:
        return str(numbers).replace(" ", "")
    if roll < 0.7:
        return ", ".join(map(str, numbers))
    if lang == "zh":
        return rng.choice(("、", "，", " ", ",")).join(map(str, numbers))
    if roll < 0.85:
        return ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
    return rng.choice((" ", ",")).join(map(str, numbers))


def on_list(rng: random.Random, split: Split, lang: Lang, function: str | None = None) -> Task:
    weights = [4 if row[3] in ("mean", "median", "std", "sum") else 1 for row in _LIST]
    en, zh, code, key = rng.choices(_LIST, weights)[0]
    if function:
        en, zh, code, key = next(row for row in _LIST if row[3] == function)
    numbers = _numbers(rng)
    name = rng.choice(en if lang == "en" else zh)
    spelled = _spell(rng, numbers, lang)
    if rng.random() < 0.35:
        text = vary(rng, rng.choice(part(_STORY[lang], split)), lang).format(f=name, l=spelled)
    else:
        text = _say(rng, split, lang, rng.choice(part(_OF_LIST[lang], split)).format(f=name, l=spelled))
    output = _COMPUTE[key](numbers)
    return Task(text, code.format(l=numbers), output, _named(en[0] if lang == "en" else zh[0], output, lang))


# ---- text, sequences, plots --------------------------------------------------------------------------------


_OTHERWISE = {
    "the sum of the numbers from 1 to {n}": (
        "the sum of 1 to {n}", "the sum of the integers from 1 to {n}", "1 + 2 + ... + {n}", "the sum 1 + 2 + ... + {n}", "the total of the numbers 1 to {n}", "the sum of 1..{n}",
        "the sum of the first {n} numbers", "the sum of the first {n} integers", "the sum of all integers up to {n}", "the numbers from 1 to {n} added up", "the sum from 1 through {n}"),
    "1到{n}的和": ("从1到{n}的和", "1到{n}的总和", "1加到{n}", "1+2+...+{n}", "1到{n}所有整数的和", "前{n}个正整数的和", "1至{n}之和", "1到{n}的累加", "从1累加到{n}的结果", "1到{n}相加"),
    "the first {small} Fibonacci numbers": (
        "the first {small} numbers of the Fibonacci sequence", "{small} Fibonacci numbers", "the Fibonacci sequence up to {small} terms", "the first {small} terms of the Fibonacci series",
        "the Fibonacci series with {small} numbers", "the start of the Fibonacci sequence, {small} terms", "a list of {small} Fibonacci numbers"),
    "前{small}个斐波那契数": ("斐波那契数列的前{small}项", "{small}个斐波那契数", "斐波那契数列前{small}个数", "前{small}项斐波那契数列", "斐波那契数列的头{small}个数", "斐波那契前{small}项", "长度为{small}的斐波那契数列"),
    "is {n} a prime number?": ("is {n} prime?", "is the number {n} prime?", "check whether {n} is prime?", "can you check if {n} is a prime?", "is {n} a prime?", "tell me, is {n} prime?", "do you think {n} is prime?"),
    "{n}是质数吗？": ("{n}是素数吗？", "{n}是不是质数？", "{n}是不是素数？", "请问{n}是质数吗？", "判断一下，{n}是质数吗？", "数字{n}是质数吗？", "{n}算质数吗？"),
    "the number of letters in '{w}'": ("the length of the word '{w}'", "the number of characters in '{w}'", "the length of '{w}'", "the letter count of '{w}'", "the number of letters of '{w}'",
                                       "the character count of '{w}'", "the size of the word '{w}'"),
    "“{w}”的字符数": ("“{w}”的长度", "“{w}”的字数", "词语“{w}”的字符数", "“{w}”这个词的长度", "字符串“{w}”的长度", "文本“{w}”的字符数", "“{w}”包含的字符数"),
    "reverse the text '{w}'": ("reverse '{w}'", "reverse the word '{w}'", "reverse the string '{w}'", "reverse this: '{w}'", "reverse the letters of '{w}'", "reverse '{w}' please", "reverse the order of '{w}'"),
    "把“{w}”倒过来": ("把“{w}”反转", "把“{w}”反过来写", "把文本“{w}”倒过来", "把字符串“{w}”反转", "把“{w}”倒序输出", "把“{w}”颠倒过来", "把“{w}”逆序"),
    "the greatest common divisor of {a} and {b}": ("the gcd of {a} and {b}", "gcd({a}, {b})", "the greatest common factor of {a} and {b}", "the largest common divisor of {a} and {b}",
                                                  "the highest common factor of {a} and {b}", "the GCD of the numbers {a} and {b}", "the biggest common divisor of {a} and {b}"),
    "{a}和{b}的最大公约数": ("{a}与{b}的最大公约数", "{a}和{b}的最大公因数", "{a}、{b}的最大公约数", "{a}与{b}的最大公因数", "{a}跟{b}的最大公约数", "gcd({a}, {b})", "{a}, {b}的最大公约数"),
    "the least common multiple of {a} and {b}": ("the lcm of {a} and {b}", "lcm({a}, {b})", "the lowest common multiple of {a} and {b}", "the smallest common multiple of {a} and {b}",
                                                "the LCM of the numbers {a} and {b}", "the least common multiple for {a} and {b}", "the first common multiple of {a} and {b}"),
    "{a}和{b}的最小公倍数": ("{a}与{b}的最小公倍数", "{a}、{b}的最小公倍数", "{a}跟{b}的最小公倍数", "lcm({a}, {b})", "{a}, {b}的最小公倍数", "数字{a}和{b}的最小公倍数", "{a}同{b}的最小公倍数"),
    "'{w}' in upper case": ("'{w}' in capital letters", "'{w}' in capitals", "the upper case of '{w}'", "'{w}' in uppercase", "the uppercase form of '{w}'", "the word '{w}' in upper case", "'{w}' with capital letters"),
}  # fmt: skip


def sequence(rng: random.Random, split: Split, lang: Lang) -> Task:
    """Small programs: sums, primes, Fibonacci numbers, words."""
    n = rng.randint(3, rng.choice((12, 100, 1000)))
    w = rng.choice(
        (values.syllables(rng, 1, 3), values.syllables(rng, 2, 4), str(values.word(rng, split, lang)))
    )
    letter = rng.choice(w)
    small = rng.randint(3, 15)
    a, b = rng.randint(1, 999), rng.randint(1, 999)
    prime = n > 1 and all(n % i for i in range(2, int(n**0.5) + 1))
    fib = [0, 1]
    while len(fib) < small:
        fib.append(fib[-1] + fib[-2])
    rows = (
        ("the sum of the numbers from 1 to {n}", "1到{n}的和", f"print(sum(range(1, {n} + 1)))", str(n * (n + 1) // 2)),
        ("the sum of all numbers from 1 to {n}", "从1加到{n}", f"print(sum(range(1, {n} + 1)))", str(n * (n + 1) // 2)),
        ("the first {small} Fibonacci numbers", "前{small}个斐波那契数",
         f"a, b = 0, 1\nfor _ in range({small}):\n    print(a, end=' ')\n    a, b = b, a + b", " ".join(map(str, fib[:small]))),
        ("is {n} a prime number?", "{n}是质数吗？", f"n = {n}\nprint(n > 1 and all(n % i for i in range(2, int(n ** 0.5) + 1)))", str(prime)),
        ("the number of letters in '{w}'", "“{w}”的字符数", f"print(len({w!r}))", str(len(w))),
        ("reverse the text '{w}'", "把“{w}”倒过来", f"print({w!r}[::-1])", w[::-1]),
        ("how many '{letter}' are in '{w}'?", "“{w}”里有几个“{letter}”？", f"print({w!r}.count({letter!r}))", str(w.count(letter))),
        ("the greatest common divisor of {a} and {b}", "{a}和{b}的最大公约数", f"import math\nprint(math.gcd({a}, {b}))", str(math.gcd(a, b))),
        ("the least common multiple of {a} and {b}", "{a}和{b}的最小公倍数", f"import math\nprint(math.lcm({a}, {b}))", str(math.lcm(a, b))),
        ("'{w}' in upper case", "“{w}”的大写", f"print({w!r}.upper())", w.upper()),
        ("the numbers from 1 to {small}", "1到{small}的数", f"print(list(range(1, {small} + 1)))", str(list(range(1, small + 1)))),
        ("a program that prints 'Hello {w}'", "打印“你好{w}”的程序",
         f"print({('Hello ' if lang == 'en' else '你好') + w!r})", ("Hello " if lang == "en" else "你好") + w),
    )  # fmt: skip
    en, zh, code, output = rng.choice(rows)
    asked = en if lang == "en" else zh
    said = rng.choice(part((asked, *_OTHERWISE.get(asked, ())), split)).format(
        n=n, w=w, small=small, a=a, b=b, letter=letter
    )
    direct = said.endswith(("?", "？")) or said.startswith(("reverse", "把"))
    text = said if direct else _say(rng, split, lang, said)
    if "program" in en:
        text = rng.choice(
            ("write {}", "Write {}", "make {}", "give me {}")
            if lang == "en"
            else ("写{}", "写一个{}", "请写{}", "编写{}")
        ).format(said)
    return Task(text, code, output, _result(output, lang))


_PLOTS = (
    ("a sine curve", "正弦曲线", "x = np.linspace(0, 2 * np.pi, 200)\nplt.plot(x, np.sin(x))"),
    ("a cosine curve", "余弦曲线", "x = np.linspace(0, 2 * np.pi, 200)\nplt.plot(x, np.cos(x))"),
    ("a heart", "爱心", "t = np.linspace(0, 2 * np.pi, 200)\nx = 16 * np.sin(t) ** 3\n"
     "y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)\nplt.plot(x, y, color='red')"),
    ("a circle", "圆", "t = np.linspace(0, 2 * np.pi, 200)\nplt.plot(np.cos(t), np.sin(t))\nplt.axis('equal')"),
    ("a parabola", "抛物线", "x = np.linspace(-5, 5, 200)\nplt.plot(x, x ** 2)"),
    ("a straight line", "直线", "x = np.linspace(-5, 5, 200)\nplt.plot(x, x)"),
    ("an exponential curve", "指数曲线", "x = np.linspace(-2, 2, 200)\nplt.plot(x, np.exp(x))"),
    ("a spiral", "螺旋线", "t = np.linspace(0, 6 * np.pi, 400)\nplt.plot(t * np.cos(t), t * np.sin(t))"),
    ("random points", "随机散点图", "plt.scatter(np.random.rand(50), np.random.rand(50))"),
    ("a tangent curve", "正切曲线", "x = np.linspace(-1.4, 1.4, 200)\nplt.plot(x, np.tan(x))"),
)  # fmt: skip
_FORMULAS = (
    "{a}*x + {b}", "{a}*x - {b}", "x**2", "x**3", "{a}*x**2", "x**2 + {b}", "x**2 - {b}*x", "sin(x)", "cos(x)", "exp(x)", "sin({a}*x)",
    "cos({a}*x)", "{a}*sin(x)", "{a}*cos(x)", "x**3 - {b}*x", "sin(x) + cos(x)", "x*sin(x)", "x**2 + {a}*x + {b}", "-x**2 + {b}", "abs(x)", "x**4 - {b}*x**2",
)  # fmt: skip
_OF_FORMULA = {
    "en": ("y = {y}", "the function y = {y}", "the graph of y = {y}", "the curve y = {y}", "the function {y}", "f(x) = {y}", "the graph of {y}", "{y} over x",
           "a graph of y = {y}", "the function f(x) = {y}", "the plot of y = {y}", "the graph of f(x) = {y}", "the equation y = {y}", "the curve of {y}", "y={y}"),
    "zh": ("y = {y}", "函数y = {y}", "y = {y}的图像", "曲线y = {y}", "函数{y}", "f(x) = {y}", "{y}的图像", "函数y = {y}的图像", "y = {y}的曲线", "函数{y}的曲线",
           "f(x) = {y}的图像", "函数f(x) = {y}", "{y}的函数图", "方程y = {y}的曲线", "y={y}"),
}  # fmt: skip
_OF_CHART = {
    "en": ("a {c} of {l}", "a {c} for {l}", "a {c} with {l}", "a {c} of the numbers {l}", "a {c} of the values {l}", "a {c} of the data {l}", "a {c} of the list {l}",
           "a {c} showing {l}", "a {c} from {l}", "a {c}: {l}", "a {c} of my data: {l}", "a {c} of these numbers: {l}", "a {c} for the values {l}", "{l} as a {c}",
           "the {c} of {l}", "the numbers {l} as a {c}", "the values {l} in a {c}", "a {c} of the sales {l}", "a {c} of the prices {l}", "a {c} of the temperatures {l}",
           "a {c} using the data {l}", "a {c} with the values {l}", "a {c} of the grades {l}", "the data {l} as a {c}", "a simple {c} of {l}", "a {c} based on {l}"),
    "zh": ("{l}的{c}", "数据{l}的{c}", "列表{l}的{c}", "{l}这些数的{c}", "{l}这组数据的{c}", "{c}：{l}", "这些数的{c}：{l}", "下面数据的{c}：{l}", "以下数字的{c}：{l}", "数字{l}的{c}",
           "销售额{l}的{c}", "价格{l}的{c}", "温度{l}的{c}", "成绩{l}的{c}", "数组{l}的{c}", "{c}，数据是{l}", "{c}，数据为{l}", "{c}，数值为{l}", "{l}几个数的{c}", "年龄{l}的{c}",
           "这组数据的{c}：{l}", "我的数据{l}的{c}", "这几个数的{c}：{l}", "{c}（{l}）", "关于{l}的{c}"),
}  # fmt: skip
_DRAW = _table("draw")
_CHARTS = (
    (("bar chart", "bar plot", "bar graph", "bar diagram"), ("柱状图", "条形图", "柱形图", "直条图"), "plt.bar(range({n}), {l})"),
    (("line chart", "line plot", "curve", "plot", "line graph", "line diagram"), ("折线图", "曲线", "曲线图", "线图"), "plt.plot({l})"),
    (("pie chart", "pie", "pie graph", "pie diagram"), ("饼图", "饼状图", "扇形图"), "plt.pie({l})"),
    (("histogram", "histogram plot"), ("直方图", "频率直方图"), "plt.hist({l})"),
    (("scatter plot", "scatter chart", "scatter diagram"), ("散点图",), "plt.scatter(range({n}), {l})"),
)  # fmt: skip
_HEADER = "import numpy as np\nimport matplotlib.pyplot as plt\n"
DRAWN = {"en": "Here is the picture.", "zh": "图已经画好了。"}


def plot(rng: random.Random, split: Split, lang: Lang) -> Task:
    roll = rng.random()
    if roll < 0.15:
        formula = rng.choice(part(_FORMULAS, split)).format(a=rng.randint(2, 9), b=rng.randint(1, 20))
        said = rng.choice(part(_OF_FORMULA[lang], split)).format(y=formula)
        values_of = re.sub("sin|cos|exp|abs", lambda m: f"np.{m[0]}", formula)
        code = f"{_HEADER}x = np.linspace(-5, 5, 200)\nplt.plot(x, {values_of})\nplt.show()"
    elif roll < 0.5:
        en, zh, body = rng.choice(_PLOTS)
        code, said = f"{_HEADER}{body}\nplt.show()", en if lang == "en" else zh
    else:
        en_names, zh_names, body = rng.choice(_CHARTS)
        numbers = _numbers(rng)
        name = rng.choice(en_names if lang == "en" else zh_names)
        spelled = _spell(rng, numbers, lang)
        said = rng.choice(part(_OF_CHART[lang], split)).format(c=name, l=spelled)
        code = "import matplotlib.pyplot as plt\n" + body.format(n=len(numbers), l=numbers) + "\nplt.show()"
    text = vary(rng, rng.choice(part(_DRAW[lang], split)), lang).format(p=said)
    return Task(text, code, rng.choice(("[Image]", "[image]", "")), DRAWN[lang])


_BOTH = _table("both")
_STATISTIC = {
    "en": ("compute {s}", "calculate {s}", "find {s}", "print {s}", "give me {s}", "tell me {s}", "determine {s}", "show {s}", "I need {s}", "what is {s}",
           "please compute {s}", "get {s}", "work out {s}", "output {s}"),
    "zh": ("计算{s}", "求{s}", "算一下{s}", "算出{s}", "求出{s}", "给出{s}", "请计算{s}", "帮我算{s}", "告诉我{s}", "请求{s}", "输出{s}", "帮我计算{s}", "我要{s}", "打印{s}"),
}  # fmt: skip


def list_and_plot(rng: random.Random, split: Split, lang: Lang) -> Task:
    """A statistic of a list, and the list plotted."""
    key = rng.choice(("mean", "median", "std", "sum", "max", "min"))
    en, zh, code, _ = next(row for row in _LIST if row[3] == key)
    numbers = _numbers(rng)
    name = rng.choice(en if lang == "en" else zh)
    said = rng.choice(part(_OF_LIST[lang], split)).format(f=name, l=_spell(rng, numbers, lang))
    text = rng.choice(part(_BOTH[lang], split)).format(
        t=rng.choice(part(_STATISTIC[lang], split)).format(s=said)
    )
    lines = code.format(l=numbers).split("\n")
    code = "\n".join(
        [*lines[:-1], "import matplotlib.pyplot as plt", lines[-1], f"plt.plot({numbers})", "plt.show()"]
    )
    output = _COMPUTE[key](numbers)
    shown = output + rng.choice(("\n[Image]", "\n[image]", ""))
    return Task(
        text,
        code,
        shown,
        _named(en[0] if lang == "en" else zh[0], output, lang) + (" " if lang == "en" else "") + DRAWN[lang],
    )


_FILES = (
    ("how many rows does it have?", "它有多少行？", "print(len(df))", lambda r: str(r.randint(2, 5000)), "number of rows", "行数"),
    ("what are the columns?", "有哪些列？", "print(list(df.columns))", lambda r: str([values.syllables(r, 1, 2) for _ in range(3)]), "list of columns", "列名"),
    ("show the first rows", "显示前几行", "print(df.head())", lambda r: "   a  b\n0  1  2\n1  3  4", "beginning of the table", "表格的开头"),
    ("describe the data", "描述一下数据", "print(df.describe())", lambda r: "         x\ncount  3.0\nmean   2.0", "summary", "数据概要"),
    ("what is the mean of the column {c}?", "{c}列的平均值是多少？", "print(df[{c!r}].mean())", lambda r: str(round(r.uniform(1, 999), 2)), "mean", "平均值"),
    ("what is the sum of column {c}?", "{c}列的总和是多少？", "print(df[{c!r}].sum())", lambda r: str(r.randint(1, 99999)), "sum", "总和"),
    ("what is the maximum of {c}?", "{c}的最大值是多少？", "print(df[{c!r}].max())", lambda r: str(r.randint(1, 9999)), "maximum", "最大值"),
)  # fmt: skip


def file_question(rng: random.Random, split: Split, lang: Lang) -> Task:
    name = f"{values.syllables(rng, 1, 3)}.csv"
    column = values.syllables(rng, 1, 2)
    en, zh, code, output, label_en, label_zh = rng.choice(_FILES)
    said = (en if lang == "en" else zh).format(c=column)
    if rng.random() < 0.6:
        text = f"#File: /mnt/data/{name}\n#Size: {rng.randint(100, 99999)}\n#File uploaded\n{said}"
    else:
        text = f"/mnt/data/{name}: {said}"
    printed = output(rng)
    program = f"import pandas as pd\ndf = pd.read_csv('/mnt/data/{name}')\n" + code.format(c=column)
    return Task(text, program, printed, _named(label_en if lang == "en" else label_zh, printed, lang))


_ERROR_LINES = (
    "NameError: name '{w}' is not defined", "ZeroDivisionError: division by zero", "ModuleNotFoundError: No module named '{w}'",
    "FileNotFoundError: [Errno 2] No such file or directory: '/mnt/data/{w}.csv'", "KeyError: '{w}'", "ValueError: {w}",
    "MemoryError", "TimeoutError: the code ran too long", "SyntaxError: invalid syntax", "TypeError: {w}",
)  # fmt: skip
TASKS = (
    (arithmetic, 30), (unary, 8), (on_list, 30), (sequence, 12), (plot, 12), (list_and_plot, 5), (file_question, 5),
)  # fmt: skip


def draw_task(rng: random.Random, split: Split, lang: Lang) -> Task:
    return rng.choices([t for t, _ in TASKS], [w for _, w in TASKS])[0](rng, split, lang)


def system_message(rng: random.Random, lang: Lang) -> dict[str, Any]:
    return {"role": "system", "content": SYSTEMS[0] if rng.random() < 0.3 else rng.choice(SYSTEMS)}


def conversation(rng: random.Random, split: Split, lang: Lang) -> Messages:
    """One to four tasks, with small talk between."""
    messages: Messages = [system_message(rng, lang)]
    for _ in range(rng.choices((1, 2, 3, 4), (30, 30, 25, 15))[0]):
        roll = rng.random()
        if roll < 0.09:
            messages += chat.small_talk(rng, split, lang)
            continue
        if roll < 0.13:
            messages += chat.facts(rng, split, lang, (0, 1))
            continue
        task = draw_task(rng, split, lang)
        output, said = task.output, task.answer
        if rng.random() < 0.06:
            line = rng.choice(_ERROR_LINES).format(w=values.syllables(rng))
            output = (
                f'Traceback (most recent call last):\n  File "<stdin>", line 1, in <module>\n{line}'
                if rng.random() < 0.7
                else line
            )
            said = f"The code failed: {line}" if lang == "en" else f"代码出错了：{line}"
        elif rng.random() < 0.1:
            output += "\n"
        messages += [
            {"role": "user", "content": task.text},
            {"role": "assistant", "metadata": "interpreter", "content": f"```python\n{task.code}\n```"},
            {"role": "observation", "content": output},
            {"role": "assistant", "content": said},
        ]
    return messages
