"""Examples and batches for training, from the renderer that inference uses."""

from __future__ import annotations

import pytest
import torch

from chatglm3.errors import PromptTooLongError
from chatglm3.prompt import Message, render
from chatglm3.train.encode import Example, collate, encode, group_by_length
from tests.tiny import tiny_tokenizer

CALL = "```python\ntool_call(city='Paris')\n```"
MESSAGES = [
    Message("user", "hello"),
    Message("assistant", CALL, metadata="weather"),
    Message("observation", "sunny"),
    Message("assistant", "hello world"),
]


def test_learnt_are_the_assistants_words_and_what_ends_them() -> None:
    tokenizer = tiny_tokenizer()
    example = encode(MESSAGES, tokenizer, 512)
    assert example.ids == render(MESSAGES, tokenizer, add_generation_prompt=False).ids
    learnt = [i for i, on in zip(example.ids, example.learnt, strict=True) if on]
    expected = [
        *tokenizer.encode("weather\n"), *tokenizer.encode(CALL), tokenizer.observation_id,
        *tokenizer.encode("\n"), *tokenizer.encode("hello world"), tokenizer.eos_id,
    ]  # fmt: skip
    assert learnt == expected


def test_a_message_can_be_left_out_of_the_loss() -> None:
    tokenizer = tiny_tokenizer()
    quiet = Message("assistant", CALL, metadata="weather", loss=False)
    example = encode([MESSAGES[0], quiet, *MESSAGES[2:]], tokenizer, 512)
    learnt = [i for i, on in zip(example.ids, example.learnt, strict=True) if on]
    assert learnt == [*tokenizer.encode("\n"), *tokenizer.encode("hello world"), tokenizer.eos_id]


def test_too_long_is_an_error_and_never_cut() -> None:
    with pytest.raises(PromptTooLongError, match="limit is 10"):
        encode(MESSAGES, tiny_tokenizer(), 10)


def test_collate_pads_on_the_right_without_loss() -> None:
    batch = collate([Example([5, 6, 7], [True, False, True]), Example([8], [False])], pad_id=0)
    assert batch.tokens.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.weights.tolist() == [[0, 0, 1], [0, 0, 0]]  # nothing comes before the first token
    assert batch.labels.tolist() == [[-100, -100, 7], [-100, -100, -100]]


def test_context_can_carry_a_small_weight() -> None:
    batch = collate(
        [Example([5, 6, 7], [False, False, True]), Example([8, 9], [False, False])], 0, context_weight=0.25
    )
    assert torch.equal(batch.weights, torch.tensor([[0, 0.25, 1], [0, 0.25, 0]]))


def test_groups_hold_every_example_once_and_keep_to_the_size() -> None:
    examples = [Example([1] * n, [True] * n) for n in (3, 9, 1, 4, 4, 8, 2, 40)]
    groups = group_by_length(examples, 16)
    assert sorted(len(e.ids) for g in groups for e in g) == [1, 2, 3, 4, 4, 8, 9, 40]
    for group in groups:
        assert len(group) == 1 or len(group) * max(len(e.ids) for e in group) <= 16
