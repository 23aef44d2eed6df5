"""Writes the small data sets beside it: made up by rules, so that a small model can learn them in minutes.

python examples/finetune/make_data.py
"""

from __future__ import annotations

import json
import random
from itertools import chain, product
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("data")

ROOMS = ["kitchen", "hall", "attic", "cellar", "garden", "office", "bedroom", "garage"]
COLOURS = ["red", "green", "blue", "white", "pink", "gold", "brown", "black"]
WISHES = ["Make the {room} {colour}.", "I want {colour} light in the {room}.", "{room}: {colour}, please."]
LAMP = {
    "name": "lamp",
    "description": "Set the colour of the light in a room",
    "parameters": {
        "type": "object",
        "properties": {"room": {"type": "string"}, "colour": {"type": "string"}},
        "required": ["room", "colour"],
    },
}


def lamps() -> list[list[Any]]:
    """Calls of a tool, in the published format: one group of samples for each room and colour."""
    return [
        [
            {
                "tools": [LAMP],
                "conversations": [
                    {"role": "user", "content": wish.format(room=room, colour=colour)},
                    {
                        "role": "tool",
                        "name": "lamp",
                        "parameters": {"room": room, "colour": colour},
                        "observation": {"ok": True},
                    },
                    {"role": "assistant", "content": f"The {room} is {colour} now."},
                ],
            }
            for wish in WISHES
        ]
        for room, colour in product(ROOMS, COLOURS)
    ]


GOODS = ["裙", "衣", "裤", "鞋", "帽", "包"]
HUES = ["红色", "蓝色", "白色", "黑色", "绿色", "黄色"]
STYLES = {"简约": "简单大方", "复古": "很有味道", "甜美": "十分可爱", "运动": "轻松自在"}


def advertisements() -> list[list[Any]]:
    """Keywords to a sentence, as in AdvertiseGen."""
    return [
        [
            {
                "content": f"类型#{good}*颜色#{hue}*风格#{style}",
                "summary": f"这款{hue}的{good}，{style}的风格{STYLES[style]}。",
            }
        ]
        for good, hue, style in product(GOODS, HUES, STYLES)
    ]


THINGS = {
    "food": ["bread", "soup", "tea", "rice", "cake", "milk"],
    "travel": ["train", "ticket", "hotel", "flight", "bus", "map"],
    "weather": ["rain", "snow", "wind", "sun", "storm", "cloud"],
}
QUESTIONS = [
    "Is there {thing}?", "Tell me about the {thing}.", "What about {thing} today?", "I need {thing}!",
    "More {thing} please", "Which {thing} is best?", "No {thing} for me", "Where is the {thing}?",
]  # fmt: skip


def topics() -> list[list[Any]]:
    """Classification: the answer is one word."""
    return [
        [{"prompt": question.format(thing=thing), "response": topic}]
        for topic, things in THINGS.items()
        for thing, question in product(things, QUESTIONS)
    ]


def series() -> list[list[Any]]:
    """Completion for a base model: how a series goes on."""
    return [
        [{"context": " ".join(map(str, range(a, a + 4 * d, d))), "target": str(a + 4 * d)}]
        for a, d in product(range(1, 40), (1, 2, 10))
    ]


def preferences() -> list[list[Any]]:
    """Pairs: the polite answer is better."""
    return [
        [
            {
                "prompt": q.format(thing=t),
                "chosen": f"Gladly! Here is {t}.",
                "rejected": f"No. Get {t} yourself.",
            }
        ]
        for t, q in product(
            chain(*THINGS.values()), ["May I have {thing}?", "Some {thing}?", "{thing}, please."]
        )
    ]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    sets = {
        "lamp": lamps(), "advertise": advertisements(), "topics": topics(), "series": series(),
        "preferences": preferences(),
    }  # fmt: skip
    for name, groups in sets.items():
        random.Random(0).shuffle(groups)
        held_out = len(groups) // 8  # whole groups: what is asked there is never seen in training
        for split, chosen in (("train", groups[held_out:]), ("dev", groups[:held_out])):
            lines = [json.dumps(record, ensure_ascii=False) for group in chosen for record in group]
            random.Random(1).shuffle(lines)
            (FOLDER / f"{name}-{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
