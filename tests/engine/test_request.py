import math

import pytest

from chatglm3.engine import GREEDY, SamplingParams
from chatglm3.errors import InvalidParameterError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "0.8"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_k", -1),
        ("top_k", 2.0),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1.0),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("seed", 2**64),
        ("seed", 1.5),
        ("max_tokens", -1),
        ("max_tokens", 1.0),
        ("n", 0),
        ("n", True),
        ("stop_ids", [-1]),
        ("stop_ids", ["</s>"]),
        ("stop_ids", "</s>"),
        ("stop_ids", 2),
        ("logprobs", -1),
        ("logprobs", True),
        ("prompt_logprobs", -1),
        ("logit_bias", [1]),
        ("logit_bias", {"5": 1.0}),
        ("logit_bias", {5: math.nan}),
        ("logit_bias", {5: -math.inf}),
        ("logit_bias", {-5: 1.0}),
    ],
)
def test_values_out_of_range_are_refused_by_name_and_value(name, value):
    with pytest.raises(InvalidParameterError) as caught:
        SamplingParams(**{name: value})
    assert name.removesuffix("s") in str(caught.value).replace(" ", "_")
    assert "," in str(caught.value) or ";" in str(caught.value)  # a remedy follows


def test_unknown_names_are_refused_and_the_known_ones_listed():
    with pytest.raises(InvalidParameterError, match=r"'temprature'.*temperature"):
        GREEDY.replace(temprature=1)


def test_replace_validates():
    assert GREEDY.replace(max_tokens=3) == SamplingParams(temperature=0, max_tokens=3)
    with pytest.raises(InvalidParameterError, match="n is 0"):
        GREEDY.replace(n=0)


def test_params_keep_their_own_copies():
    bias, stops = {5: 1.0}, [2]
    params = SamplingParams(logit_bias=bias, stop_ids=stops)
    bias[6] = 1.0
    stops.append(3)
    assert params.logit_bias == {5: 1.0}
    assert params.stop_ids == {2}
    assert hash(params) == hash(SamplingParams(stop_ids=(2,)))
