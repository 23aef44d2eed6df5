# ruff: noqa: E501 (tables of words and wordings, one entry after the other)
"""The table of what nano can do: by category and language, greedy and sampled, in fp32 and quantized."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from chatglm3.attention import packed_batch
from chatglm3.checkpoint import load_model
from chatglm3.engine import Engine, SamplingParams
from chatglm3.model import ChatGLMModel
from chatglm3.prompt import Message, Reply, ReplyDecoder, render
from chatglm3.tokenizer import Tokenizer
from recipes.nano.cases import CATEGORIES, Case, cases
from recipes.nano.settings import PACKAGE_DATA, Settings
from recipes.nano.words import Split

REPORT = Path(__file__).with_name("report.json")
_MAX_TOKENS = 200


def replies(
    engine: Engine, tokenizer: Tokenizer, asked: Sequence[Case], sampling: SamplingParams
) -> list[Reply]:
    """The model's reply to each case."""
    prompts = [render([Message.from_dict(m) for m in case.messages], tokenizer).ids for case in asked]
    completions = engine.generate(prompts, sampling)
    return [
        _reply(case, tokenizer, answers[0].content_ids)
        for case, answers in zip(asked, completions, strict=True)
    ]


def _reply(case: Case, tokenizer: Tokenizer, ids: Sequence[int]) -> Reply:
    decoder = ReplyDecoder(tokenizer, [t["name"] for t in case.messages[0].get("tools", [])])
    for token in ids:
        decoder.add(token)
    return decoder.finish()[1]


def reference_ids(model: ChatGLMModel, prompt: list[int], stop_ids: frozenset[int], limit: int) -> list[int]:
    """Greedy answer without engine and cache: the whole sequence anew for each token."""
    ids = list(prompt)
    for _ in range(limit):
        batch = packed_batch(model.config, [len(ids)])
        with torch.inference_mode():
            hidden = model(torch.tensor(ids), torch.arange(len(ids)), batch)
            token = int(model.logits(hidden[-1:]).argmax())
        if token in stop_ids:
            break
        ids.append(token)
    return ids[len(prompt) :]


def table(
    model: ChatGLMModel, tokenizer: Tokenizer, split: Split, count: int, sampling: SamplingParams
) -> dict[str, dict[str, float]]:
    """Share of right replies, in percent: category -> language -> share."""
    engine = Engine(
        model, num_blocks=4096, max_batch_tokens=2048, max_sequences=32, valid_vocab=tokenizer.vocab_size
    )
    rows: dict[str, dict[str, float]] = {}
    for category in CATEGORIES:
        rows[category] = {}
        for lang in ("en", "zh"):
            asked = cases(category, split, lang, count)
            right = [
                c.check(r) for c, r in zip(asked, replies(engine, tokenizer, asked, sampling), strict=True)
            ]
            rows[category][lang] = round(100 * sum(right) / count, 1)
        print(f"{category:32} en {rows[category]['en']:5.1f}  zh {rows[category]['zh']:5.1f}", flush=True)
    return rows


def report(folder: Path, settings: Settings, split: Split, count: int) -> dict[str, Any]:
    """Evaluate the model in `folder`; for the shipped one and held-out cases, write report.json."""
    started = time.perf_counter()
    tokenizer = Tokenizer(folder)
    greedy = SamplingParams(temperature=0, max_tokens=_MAX_TOKENS, stop_ids=tokenizer.stop_ids)
    sampled = SamplingParams(seed=settings.seed, max_tokens=_MAX_TOKENS, stop_ids=tokenizer.stop_ids)
    model = load_model(folder, dtype=torch.float32)
    print("greedy")
    tables = {"greedy": table(model, tokenizer, split, count, greedy)}
    print("temperature 0.8, top_p 0.8")
    tables["sampled"] = table(model, tokenizer, split, count, sampled)
    print("greedy, wordings and tools of the training data with other values")
    tables["familiar"] = table(model, tokenizer, "train", count, greedy)
    if split != "heldout" or folder.resolve() != PACKAGE_DATA:
        return {"tables": tables}
    few = max(count // 2, 1)
    for scheme in ("int8", "int4"):
        print(scheme)
        quantized = load_model(folder, dtype=torch.float32, quantize=scheme)
        tables[scheme] = table(quantized, tokenizer, split, few, greedy)
    log = settings.folder / "log.jsonl"
    last = json.loads(log.read_text().splitlines()[-1]) if log.exists() else {}
    result = {
        "settings": settings.name,
        "seed": settings.seed,
        "training": last,
        "hardware": hardware(),
        "commit": commit(),
        "cases_per_row": count,
        "cases_per_row_quantized": few,
        "reference_agrees": _reference_share(model, tokenizer, split, greedy),
        "evaluation_seconds": round(time.perf_counter() - started),
        "tables": tables,
    }
    REPORT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return result


def _reference_share(
    model: ChatGLMModel, tokenizer: Tokenizer, split: Split, greedy: SamplingParams
) -> float:
    """Share of prompts, in percent, that the engine and the plain path without cache answer with the same ids."""
    engine = Engine(model, num_blocks=512, valid_vocab=tokenizer.vocab_size)
    same = []
    for category in CATEGORIES:
        for case in cases(category, split, "en", 1) + cases(category, split, "zh", 1):
            prompt = render([Message.from_dict(m) for m in case.messages], tokenizer).ids
            ids = engine.generate([prompt], greedy)[0][0].content_ids
            same.append(ids == reference_ids(model, prompt, tokenizer.stop_ids, _MAX_TOKENS))
    return round(100 * sum(same) / len(same), 1)


def hardware() -> str:
    """The class of machine, such as "2 CPU cores (x86_64)"."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


def commit() -> str:
    """The commit of the working tree, or "unknown" outside of git."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=REPORT.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
