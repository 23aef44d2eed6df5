"""Each method teaches nano a made-up skill, for prompts that it never saw; what it knew is measured too."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from chatglm3 import ChatGLM3
from chatglm3.engine import SamplingParams
from chatglm3.hub import EMBEDDED
from chatglm3.prompt import Message, ToolCall
from chatglm3.train.config import parse_config
from chatglm3.train.run import finetune
from recipes.nano.cases import Case, cases
from recipes.nano.data import conversation
from recipes.nano.evaluation import replies
from tests.train.runs import quiet, write_lines

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not EMBEDDED["nano"].is_dir(), reason="the embedded model is not in this checkout"),
]

ROOMS = ("kitchen", "hall", "attic", "cellar", "garden", "office", "bedroom", "garage")
COLOURS = ("red", "green", "blue", "white", "pink", "gold", "brown", "black")
WISHES = ("Make the {r} {c}.", "Paint the light of the {r} {c}!", "I want {c} light in the {r}")
SKILL = list(product(ROOMS, COLOURS))
random.Random(0).shuffle(SKILL)
LEARNT, HELD_OUT = SKILL[:48], SKILL[48:]

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"lora": {"dropout": 0}},
    "dora": {"lora": {"dropout": 0, "dora": True}},
    "qlora": {"method": "qlora", "lora": {"dropout": 0}},
    "ptuning": {"method": "ptuning", "ptuning": {"length": 32}, "learning_rate": 5e-2, "steps": 200},
    "projection": {
        "method": "ptuning", "ptuning": {"length": 32, "projection": True}, "learning_rate": 3e-3,
        "steps": 200,
    },
    "full": {"method": "full", "learning_rate": 1e-3},
}  # fmt: skip


def sample(room: str, colour: str, wish: str) -> dict[str, Any]:
    """A protocol without definitions: the tool is known by heart."""
    call = ToolCall("lamp", {"room": room, "colour": colour})
    return {
        "conversations": [
            {"role": "user", "content": wish.format(r=room, c=colour)},
            {"role": "assistant", "metadata": "lamp", "content": Message.call(call).content},
        ]
    }


def right(model: ChatGLM3, asked: Sequence[Case]) -> int:
    found = replies(
        model.engine,
        model.tokenizer,
        asked,
        SamplingParams(temperature=0, max_tokens=80, stop_ids=model.tokenizer.stop_ids),
    )
    return sum(case.check(reply) for case, reply in zip(asked, found, strict=True))


def new_cases() -> list[Case]:
    """What was never trained: other pairs of a room and a colour."""
    found = []
    for (room, colour), wish in product(HELD_OUT, WISHES):
        call = ToolCall("lamp", {"room": room, "colour": colour})
        question = {"role": "user", "content": wish.format(r=room, c=colour)}
        found.append(Case([question], "", lambda reply, call=call: reply.tool_calls == [call]))
    return found


def old_cases() -> list[Case]:
    """What nano can do without any training here."""
    return [
        case
        for category in ("greets and says what it is", "calls the one tool", "recalls a fact")
        for case in cases(category, "heldout", "en", 10)
    ]


def learn(folder: Path, lines: list[dict[str, Any]], **changes: Any) -> ChatGLM3:
    """Nano after training on `lines`, as the engine serves it."""
    data: dict[str, Any] = {
        "model": "nano",
        "train": str(write_lines(folder / "train.jsonl", lines)),
        "output": str(folder / "run"),
        "batch_size": 16,
        "micro_batch_size": 16,
        "learning_rate": 2e-3,
        "steps": 50,
        "device": "cpu",
        "report_to": [],
    }
    config = parse_config(data | changes)
    finetune(config, quiet())
    if config.method == "full":
        return ChatGLM3.load(folder / "run", device="cpu")
    return ChatGLM3.load("nano", device="cpu", adapter=folder / "run")


@pytest.mark.parametrize("method", METHODS)
def test_a_new_skill_is_learnt(tmp_path: Path, method: str) -> None:
    new = new_cases()
    assert right(ChatGLM3.load("nano", device="cpu"), new) <= 0.2 * len(new)
    lines = [sample(*pair, wish) for pair, wish in product(LEARNT, WISHES)]
    after = learn(tmp_path, lines, **METHODS[method])
    assert right(after, new) >= 0.95 * len(new)


@pytest.mark.slow
def test_old_skills_stay_where_they_are_trained_too(tmp_path: Path) -> None:
    """A model that sees nothing but the new skill forgets the rest; a third of old conversations keeps it."""
    new, old = new_cases(), old_cases()
    knew = right(ChatGLM3.load("nano", device="cpu"), old)
    lines = [sample(*pair, wish) for pair, wish in product(LEARNT, WISHES)]
    lines += [{"conversations": conversation(seed=7, index=i)} for i in range(len(lines) // 2)]
    after = learn(tmp_path, lines, **METHODS["lora"], learning_rate=1.5e-3, steps=60)
    learnt, knows = right(after, new), right(after, old)
    print(f"new skill {learnt} of {len(new)}; old skills {knew} before, {knows} after, of {len(old)}")
    assert learnt >= 0.95 * len(new)
    assert knows >= 0.7 * knew
