"""Answers held to a grammar, with grammars made of plain ids."""

import threading
import time

import numpy as np
import pytest

from chatglm3.engine import GREEDY, Engine, SamplingParams
from chatglm3.errors import GenerationError, InvalidParameterError
from tests.engine.test_engine import empty, ids_of, prompts, run
from tests.tiny import tiny_model

END = 300
SEEDED = SamplingParams(temperature=1.0, top_p=0.9, seed=17, max_tokens=20)


class Rising:
    """Each id must be above the last one, by at most 20; END may follow any."""

    vocab_size = 310

    def begin(self):
        return self.Answer(self.vocab_size)

    class Answer:
        def __init__(self, vocab_size):
            self.vocab_size = vocab_size
            self.last = 0
            self.threads = set()

        def allowed(self):
            self.threads.add(threading.get_ident())
            ids = np.zeros(self.vocab_size, dtype=np.bool_)
            ids[self.last + 1 : self.last + 21] = True
            ids[END] = True
            return ids

        def accept(self, token):
            assert 0 < token - self.last <= 20 or token == END
            self.last = token
            return token == END


class Stuck:
    """Two ids, and then nothing."""

    vocab_size = 320

    def begin(self):
        return self.Answer()

    class Answer:
        def __init__(self):
            self.count = 0

        def allowed(self):
            if self.count == 2:
                raise GenerationError("no way on")
            return np.ones(320, dtype=np.bool_)

        def accept(self, token):
            self.count += 1
            return False


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def rises(ids):
    body = ids[:-1] if ids[-1] == END else ids
    return all(0 < b - a <= 20 for a, b in zip([0, *body], body))


@pytest.mark.parametrize("params", [GREEDY.replace(max_tokens=20), SEEDED], ids=["greedy", "seeded"])
def test_every_answer_follows_its_grammar_and_ends_with_it(model, params):
    answers = Engine(model).generate(prompts(30), params.replace(grammar=Rising()))
    assert all(rises(one.ids) for [one] in answers)
    ended = [one for [one] in answers if one.finish_reason == "stop"]
    assert ended
    assert all(one.stop_id == END and one.content_ids == one.ids[:-1] for one in ended)
    others = [one for [one] in answers if one.finish_reason != "stop"]
    assert all(one.finish_reason == "length" and len(one.ids) == 20 for one in others)


def test_in_a_mixed_batch_everyone_gets_the_answer_it_gets_alone(model):
    plain = [SEEDED.replace(seed=i) if i % 3 else GREEDY.replace(max_tokens=20) for i in range(12)]
    kinds = [p.replace(grammar=Rising()) if i % 2 else p for i, p in enumerate(plain)]
    kinds[5] = kinds[5].replace(logprobs=2, presence_penalty=1.0, logit_bias={7: 3.0}, n=3)
    alone = [Engine(model).generate([ids], own)[0] for ids, own in zip(prompts(12), kinds)]
    engine = Engine(model)
    assert ids_of(engine.generate(prompts(12), kinds)) == ids_of(alone)
    assert empty(engine)


def test_preempted_equals_undisturbed(model):
    params = SEEDED.replace(max_tokens=60, grammar=Rising(), n=2)
    few = prompts(6, longest=40)
    undisturbed = Engine(model).generate(few, params)
    engine = Engine(model, num_blocks=24, block_size=4)
    assert engine.generate(few, params) == undisturbed
    assert engine.stats.preemptions > 2
    assert empty(engine)


def test_the_answers_of_one_request_are_held_each_for_itself(model):
    [answers] = Engine(model).generate(prompts(1), SEEDED.replace(grammar=Rising(), n=8))
    assert len({tuple(one.ids) for one in answers}) > 4
    assert all(rises(one.ids) for one in answers)


def test_log_probabilities_are_the_models_own(model):
    params = GREEDY.replace(max_tokens=8, logprobs=1, grammar=Rising())
    [[answer]] = Engine(model).generate(prompts(1), params)
    prompt = prompts(1)[0]
    scored = Engine(model).generate([prompt + answer.ids], GREEDY.replace(max_tokens=0, prompt_logprobs=1))
    expected = scored[0][0].prompt_logprobs[len(prompt) :]
    for own, other in zip(answer.logprobs, expected, strict=True):
        assert own.token == other.token
        assert own.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert own.top[0][0] == other.top[0][0]
    assert any(one.top[0][0] != one.token for one in answer.logprobs)


def test_an_answer_whose_grammar_is_stuck_ends_alone(model):
    engine = Engine(model)
    stuck = engine.submit([1, 2, 3], GREEDY.replace(max_tokens=9, grammar=Stuck()))
    other = engine.submit([1, 2, 3], GREEDY.replace(max_tokens=9))
    outputs = run(engine)
    assert len(outputs[other]) == 9
    assert [output.finish_reason for output in outputs[stuck]] == [None, None, "error"]
    assert outputs[stuck][-1].error == "no way on"
    assert outputs[stuck][-1].token is None
    assert empty(engine)


def test_aborting_in_the_middle_leaves_nothing_behind(model):
    engine = Engine(model)
    first = engine.submit([1], SEEDED.replace(grammar=Rising(), max_tokens=100, n=2))
    second = engine.submit([1], SEEDED.replace(grammar=Rising()))
    engine.step()
    engine.step()
    engine.abort(first)
    outputs = run(engine)
    assert outputs[second][-1].finish_reason in ("stop", "length")
    assert empty(engine)


def test_a_failed_step_is_tried_again(model, monkeypatch):
    params = SEEDED.replace(grammar=Rising())
    expected = Engine(model).generate([[5, 6, 7]], params)
    engine = Engine(model)
    forward, calls = type(model).forward, []

    def failing(*args):
        calls.append(len(calls))
        if len(calls) % 3 == 0:
            raise RuntimeError("out of memory")
        return forward(*args)

    monkeypatch.setattr(type(model), "forward", failing)
    request = engine.submit([5, 6, 7], params)
    ids = []
    while engine.has_work:
        try:
            ids += [output.token for output in engine.step() if output.request_id == request]
        except RuntimeError:
            continue
    assert ids == expected[0][0].ids


def test_masks_are_computed_while_the_model_runs(model, monkeypatch):
    class Slow(Rising):
        class Answer(Rising.Answer):
            def allowed(self):
                time.sleep(0.02)
                return super().allowed()

    slow = Slow()
    begun = []
    slow.begin = lambda: begun.append(Slow.Answer(Slow.vocab_size)) or begun[-1]
    forward = type(model).forward

    def slow_forward(*args):
        time.sleep(0.02)
        return forward(*args)

    monkeypatch.setattr(type(model), "forward", slow_forward)
    engine = Engine(model)
    engine.submit([1], SEEDED.replace(grammar=slow, max_tokens=10, logit_bias={END: -100}))
    start = time.perf_counter()
    run(engine)
    assert time.perf_counter() - start < 10 * 0.035
    assert threading.get_ident() not in begun[0].threads


def test_a_grammar_of_another_vocabulary_is_refused(model):
    engine = Engine(model, valid_vocab=305)
    with pytest.raises(InvalidParameterError, match=r"310 ids.*end at 304"):
        engine.submit([1], SamplingParams(grammar=Rising()))
