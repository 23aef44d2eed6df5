# ruff: noqa: E501 (sentences of the report in one piece)
"""Puts the measured table and the transcripts into both model cards, between the marks kept for them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from recipes.nano.cases import CATEGORIES
from recipes.nano.evaluation import REPORT
from recipes.nano.settings import ROOT
from recipes.nano.transcripts import transcript
from recipes.nano.words import Lang

_CHINESE = {
    "greets and says what it is": "问候并说明自己是谁",
    "recalls a fact": "记住事实",
    "says that it does not know": "承认不知道",
    "calls the one tool": "调用唯一的工具",
    "calls the right one of three": "三个工具中选对一个",
    "makes the second of two calls": "连续两次调用中的第二次",
    "answers from an observation": "根据返回结果作答",
    "reports an error": "报告错误",
    "says that no tool fits": "说明没有合适的工具",
    "code: arithmetic": "代码：算术",
    "code: statistics of a list": "代码：列表统计",
    "code: plots": "代码：画图",
    "answers from the output": "根据运行结果作答",
}
_COLUMNS = {
    "en": {
        "familiar": "familiar wording",
        "greedy": "greedy",
        "sampled": "T 0.8, top_p 0.8",
        "int8": "int8",
        "int4": "int4",
    },
    "zh": {
        "familiar": "见过的说法",
        "greedy": "贪心",
        "sampled": "采样 T 0.8、top_p 0.8",
        "int8": "int8",
        "int4": "int4",
    },
}


def table(result: dict[str, Any], lang: Lang) -> str:
    """The report as Markdown; each cell is "English / Chinese", in percent."""
    names = _COLUMNS[lang]
    count, few = result["cases_per_row"], result["cases_per_row_quantized"]
    head = (
        f"Right replies in percent, English / Chinese; {count} cases a cell, {few} in the quantized columns. "
        "All are held out but those of the first column: there the wordings and everyday tools are those of the training "
        "data, and the values are not."
        if lang == "en"
        else f"正确率（%），英文 / 中文；每格 {count} 个案例，量化列每格 {few} 个。除第一列外均为留出案例；第一列的说法和日常工具在训练数据中出现过，数值没有。"
    )
    lines = [head, "", "| | " + " | ".join(names.values()) + " |", "|---" * (len(names) + 1) + "|"]
    for category in CATEGORIES:
        cells = [
            " / ".join(f"{result['tables'][key][category][asked]:.0f}" for asked in ("en", "zh"))
            for key in names
        ]
        lines.append(f"| {category if lang == 'en' else _CHINESE[category]} | " + " | ".join(cells) + " |")
    run = result["training"]
    minutes, tokens = run["seconds"] / 60, run["tokens"] / 1e6
    lines += [
        "",
        f"Seed {result['seed']}, {run['step']} steps, {tokens:.1f} M tokens, {minutes:.0f} minutes on {result['hardware']}. "
        f"On {result['reference_agrees']:.0f} % of a sample of the prompts the engine gives the very answer of the plain "
        "path without a cache."
        if lang == "en"
        else f"种子 {result['seed']}，{run['step']} 步，{tokens:.1f} M 词片，{minutes:.0f} 分钟，硬件：{result['hardware']}。"
        f"抽样提示中有 {result['reference_agrees']:.0f} % 引擎与不带缓存的朴素路径给出完全相同的回答。",
    ]
    return "\n".join(lines)


def _fill(text: str, mark: str, content: str) -> str:
    pattern = re.compile(f"<!-- {mark} -->.*?<!-- end of {mark} -->", re.DOTALL)
    return pattern.sub(lambda _: f"<!-- {mark} -->\n{content}\n<!-- end of {mark} -->", text)


def fill_cards(folder: Path) -> None:
    """Update docs/nano.md and docs/nano_zh.md from report.json and the model in `folder`."""
    result = json.loads(REPORT.read_text(encoding="utf-8"))
    spoken = transcript(folder).strip()
    for name, lang in (("nano.md", "en"), ("nano_zh.md", "zh")):
        path = ROOT / "docs" / name
        text = _fill(
            path.read_text(encoding="utf-8"), "report", table(result, "en" if lang == "en" else "zh")
        )
        path.write_text(_fill(text, "transcripts", spoken), encoding="utf-8")
