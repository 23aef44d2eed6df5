"""nano's network finds things in the prompt before it has learnt anything; the exercises ask for that."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import GlmForCausalLM

from chatglm3.tokenizer import Tokenizer
from chatglm3.train.glm import new_glm
from recipes.nano.abstract import AbstractDocuments
from recipes.nano.initial import wire
from recipes.nano.settings import PACKAGE_DATA, SETTINGS


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(PACKAGE_DATA)


@pytest.fixture(scope="module")
def untrained(tokenizer: Tokenizer) -> GlmForCausalLM:
    torch.manual_seed(0)
    config = SETTINGS["cpu"].model_config(tokenizer.vocab_size)
    model = new_glm(config, tied=True)
    wire(model, config, tokenizer)
    return model.eval()


def test_it_goes_on_behind_what_it_has_seen(untrained: GlmForCausalLM) -> None:
    """Random pieces twice over: the second time each is among the first hundred of 6,144, mostly."""
    once = torch.randint(300, 6000, (8, 40), generator=torch.Generator().manual_seed(1))
    tokens = torch.cat([once, once], dim=1)
    with torch.no_grad():
        logits = untrained(input_ids=tokens).logits[:, 40:-1]
    wanted = tokens[:, 41:, None]
    rank = (logits > logits.gather(-1, wanted)).sum(-1).float()
    assert rank.median() < 100
    assert (rank == 0).float().mean() > 0.05


def test_a_description_knows_the_name_of_its_tool(untrained: GlmForCausalLM, tokenizer: Tokenizer) -> None:
    documents = AbstractDocuments(tokenizer)
    rng = random.Random(0)
    untrained.set_attn_implementation("eager")
    documents.kinds = ((documents._choose, 1),)
    seen = []
    for _ in range(10):
        ids = documents.draw(rng).ids
        with torch.no_grad():
            weights = untrained(input_ids=torch.tensor([ids]), output_attentions=True).attentions[2][0, 0]
        name = None
        for at, token in enumerate(ids):
            if token in (documents.form.first, *documents.form.next):
                name = at + 1
            elif token == documents.form.about and name is not None:
                seen.append(float(weights[at + 1, name]))
    untrained.set_attn_implementation("chatglm3_plain")
    assert len(seen) > 20
    assert sum(seen) / len(seen) > 0.4


def test_exercises_have_the_form_of_real_prompts(tokenizer: Tokenizer) -> None:
    """The text of a call, and that only answers are learnt."""
    documents = AbstractDocuments(tokenizer)
    documents.kinds = ((documents._fill, 1),)
    example = documents.draw(random.Random(1))
    learnt = tokenizer.decode(
        [t for t, is_learnt in zip(example.ids, example.learnt, strict=True) if is_learnt]
    )
    assert "```python\ntool_call(" in learnt
    assert learnt.count("='") == learnt.count("',") + learnt.count("')")
    assert '"description"' not in learnt
    assert '"description"' in tokenizer.decode(example.ids)
