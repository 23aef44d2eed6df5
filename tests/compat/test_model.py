"""`AutoModel` on tiny models: what needs no published case."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chatglm3 import AutoModel, AutoTokenizer
from chatglm3.checkpoint import save_model
from chatglm3.compat import AutoConfig
from chatglm3.errors import (
    CheckpointError,
    ConfigError,
    DeviceError,
    InvalidMessageError,
    InvalidParameterError,
    PromptTooLongError,
)
from tests.tiny import tiny_config, tiny_model
from tests.tokenizers import tiny_tokenizer_file

PROMPT = torch.tensor([[7, 100, 42, 9, 250]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint folder of a tiny model."""
    place = tmp_path_factory.mktemp("tiny")
    save_model(tiny_model(), tiny_config(), place)
    shutil.copy(tiny_tokenizer_file(), place / "tokenizer.model")
    return place


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=True)


@pytest.fixture(scope="module")
def model(folder: Path) -> AutoModel:
    return AutoModel.from_pretrained(folder, trust_remote_code=True, device="cpu").float().eval()


# The published README, with only the import changed


def test_readme(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=True)
    model = AutoModel.from_pretrained(str(folder), trust_remote_code=True, device="cpu")
    model = model.eval()
    response, history = model.chat(tokenizer, "你好", history=[], max_new_tokens=8)
    assert isinstance(response, str | dict)
    assert [turn["role"] for turn in history[:2]] == ["user", "assistant"]
    before = copy.deepcopy(history)
    response, longer = model.chat(tokenizer, "晚上睡不着应该怎么办", history=history, max_new_tokens=8)
    assert history == before
    assert longer[: len(before)] == before
    assert longer[len(before)] == {"role": "user", "content": "晚上睡不着应该怎么办"}


def test_command_line_demo(model: AutoModel, tokenizer: AutoTokenizer) -> None:
    past_key_values, history = None, []  # type: ignore[var-annotated]
    for query in ("hello", "world"):
        for response, history, past_key_values in model.stream_chat(  # noqa: B007, B020
            tokenizer, query, history=history, top_p=1, temperature=0.01, past_key_values=past_key_values,
            return_past_key_values=True, max_new_tokens=12,
        ):  # fmt: skip
            assert isinstance(response, str | dict)
    assert [turn["content"] for turn in history if turn["role"] == "user"] == ["hello", "world"]


def test_tools_and_observations(model: AutoModel, tokenizer: AutoTokenizer) -> None:
    tools = [{"name": "track", "description": "price", "parameters": {"type": "object", "properties": {}}}]
    system = {"role": "system", "content": "Answer:", "tools": tools}
    call = {"role": "assistant", "metadata": "track", "content": "```python\ntool_call()\n```"}
    history = [system, {"role": "user", "content": "?"}, call]
    before = copy.deepcopy(history)
    _, new = model.chat(
        tokenizer, json.dumps({"price": 1}), history=history, role="observation", max_new_tokens=4
    )
    assert history == before
    assert new[3] == {"role": "observation", "content": '{"price": 1}'}


def test_batch_demo(model: AutoModel, tokenizer: AutoTokenizer) -> None:
    queries = ["hello", "hello world, how are you today?"]
    inputs = tokenizer(queries, return_tensors="pt", padding="longest").to(model.device)
    outputs = model.generate(
        **inputs, max_length=64, num_beams=1, do_sample=True, top_p=0.8, temperature=0.8, logits_processor=[],
        eos_token_id=[tokenizer.eos_token_id, tokenizer.get_command("<|user|>")],
    )  # fmt: skip
    assert outputs.shape[0] == 2
    assert outputs.shape[1] <= 64
    assert outputs[:, : inputs.input_ids.shape[1]].equal(inputs.input_ids)
    answers = [tokenizer.decode(row[inputs.input_ids.shape[1] :]) for row in outputs]
    assert all(isinstance(answer, str) for answer in answers)


# Loading


def test_weights_are_read_once_and_where_they_belong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chatglm3.compat import runtime

    loads: list[dict[str, Any]] = []

    def spy(folder: Path, **options: Any) -> Any:
        loads.append(options)
        return load_model(folder, **options)

    load_model = runtime.load_model
    monkeypatch.setattr(runtime, "load_model", spy)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).half().cpu().bfloat16().quantize(8)
    assert not loads
    assert model.eval() is model
    assert (model.device.type, model.dtype) == ("cpu", torch.bfloat16)
    model.to("cpu", torch.bfloat16).to(device="cpu", dtype=torch.bfloat16)
    model.generate(PROMPT, max_new_tokens=2)
    assert [(o["device"].type, o["dtype"], o["quantize"]) for o in loads] == [("cpu", torch.bfloat16, "int8")]
    model.float().eval()
    assert [o["dtype"] for o in loads[1:]] == [torch.float32]


def test_placement_words(folder: Path) -> None:
    def dtype(**options: Any) -> torch.dtype:
        return AutoModel.from_pretrained(folder, device_map="cpu", **options).dtype

    assert dtype() == torch.float32  # a small model on a CPU
    assert dtype(torch_dtype="auto") == torch.float32
    assert dtype(torch_dtype=torch.float16) == torch.float16
    assert dtype(dtype="bfloat16") == torch.bfloat16
    model = AutoModel.from_pretrained(folder, device_map={"": "cpu"}, load_in_4bit=True)
    assert model.runtime.placement.quantize == "int4"
    assert AutoModel.from_pretrained(folder, device_map="auto").device.type in ("cpu", "cuda", "mps")
    assert AutoModel.from_pretrained(folder).cpu().half().dtype == torch.float16


def test_quantized_models_are_near_the_plain_one(folder: Path, model: AutoModel) -> None:
    plain = model(PROMPT).logits
    errors = []
    for bits in (8, 4):
        quantized = AutoModel.from_pretrained(folder, device="cpu").float().quantize(bits)
        errors.append((quantized(PROMPT).logits - plain).pow(2).mean().sqrt().item() / plain.std().item())
    assert 0 < errors[0] < 0.05 < errors[1] < 0.5


def test_config_has_the_published_names(folder: Path, model: AutoModel) -> None:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert config == model.config
    assert (config.num_layers, config.hidden_size, config.seq_length) == (2, 48, 512)
    assert config.padded_vocab_size == config.vocab_size == 320
    assert config.pre_seq_len is None
    assert config.to_dict()["model_type"] == "chatglm"
    assert model.num_parameters() == sum(p.numel() for p in tiny_model().parameters())
    same = AutoModel.from_pretrained(folder, config=config, device="cpu")
    # One of them may run natively by now, which rounds otherwise.
    assert torch.allclose(same(PROMPT).logits, model(PROMPT).logits, atol=1e-4)
    config.seq_length = 1024
    with pytest.raises(InvalidParameterError, match=r"config\.json"):
        AutoModel.from_pretrained(folder, config=config)


def test_a_prefix_changes_the_answer_and_must_fit(folder: Path, model: AutoModel) -> None:
    config = AutoConfig.from_pretrained(folder, pre_seq_len=3)
    tuned = AutoModel.from_pretrained(folder, config=config, device="cpu")
    with pytest.raises(CheckpointError, match="pre_seq_len 3"):
        tuned(PROMPT)
    width = 2 * 2 * 2 * 16  # layers, keys and values, heads, head_dim
    state = {"embedding.weight": torch.randn(3, width, generator=torch.Generator().manual_seed(0))}
    tuned.transformer.prefix_encoder.load_state_dict(state)
    assert not torch.allclose(tuned(PROMPT).logits, model(PROMPT).logits, atol=0.1)
    new = tuned.generate(PROMPT, max_new_tokens=6, eos_token_id=[])
    assert new[0, 5] == tuned(PROMPT).logits[0, -1].argmax()
    with pytest.raises(CheckpointError, match=r"embedding\.weight"):
        tuned.transformer.prefix_encoder.load_state_dict({"embedding.weight": torch.zeros(4, width)})


def test_a_folder_without_a_tokenizer(folder: Path, tmp_path: Path, model: AutoModel) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    bare = AutoModel.from_pretrained(tmp_path, device="cpu")
    options = {"max_new_tokens": 8, "eos_token_id": []}
    assert bare.generate(PROMPT, **options).equal(model.generate(PROMPT, **options))


def test_loading_errors_name_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        AutoModel.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="use_magic"):
        AutoModel.from_pretrained(folder, use_magic=True)
    with pytest.raises(InvalidParameterError, match="float99"):
        AutoModel.from_pretrained(folder, torch_dtype="float99")
    with pytest.raises(InvalidParameterError, match="several devices"):
        AutoModel.from_pretrained(folder, device_map={"a": 0, "b": 1})
    with pytest.raises(DeviceError, match="abacus"):
        AutoModel.from_pretrained(folder).to("abacus")
    with pytest.raises(InvalidParameterError, match="3"):
        AutoModel.from_pretrained(folder).quantize(3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_missing_device_is_told_at_once(folder: Path) -> None:
    with pytest.raises(DeviceError, match="cuda"):
        AutoModel.from_pretrained(folder, trust_remote_code=True, device="cuda")
    with pytest.raises(DeviceError, match="cuda"):
        AutoModel.from_pretrained(folder, trust_remote_code=True).half().cuda()


# Logits


def test_masked_tokens_are_invisible(model: AutoModel) -> None:
    alone = model(PROMPT).logits
    padded = torch.cat((torch.tensor([[3, 5]]), PROMPT), dim=1)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    positions = torch.tensor([[0, 0, 0, 1, 2, 3, 4]])
    logits = model(padded, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(logits[:, 2:], alone, rtol=0, atol=1e-5)
    assert not logits[:, :2].any()
    nothing = model(padded, attention_mask=torch.zeros_like(mask)).logits
    assert nothing.shape == (1, 7, 320)
    assert not nothing.any()


def test_wrong_inputs(model: AutoModel) -> None:
    for inputs, message in [
        ({"input_ids": PROMPT[0]}, "shape"),
        ({"input_ids": PROMPT, "attention_mask": torch.ones(1, 4)}, "attention_mask"),
        ({"input_ids": PROMPT, "position_ids": torch.ones(1, 4)}, "position_ids"),
        ({"input_ids": PROMPT, "labels": PROMPT[:, 1:]}, "labels"),
        ({"input_ids": PROMPT + 300}, "319"),
        ({"input_ids": -PROMPT}, "-250"),
        ({"input_ids": PROMPT, "position_ids": PROMPT - 50}, "-43"),
    ]:
        with pytest.raises((InvalidParameterError, PromptTooLongError), match=message):
            model(**inputs)


# Generation


def test_generated_tokens_are_those_the_logits_say(model: AutoModel) -> None:
    output = model.generate(PROMPT, max_new_tokens=10, eos_token_id=[])
    likeliest = model(output).logits.argmax(dim=-1)
    assert output[0, 5:].equal(likeliest[0, 4:-1])
    # The length counts the prompt, and max_new_tokens goes before it.
    assert model.generate(PROMPT, max_length=8, eos_token_id=[]).equal(output[:, :8])
    assert model.generate(PROMPT, max_length=7, max_new_tokens=3, eos_token_id=[]).equal(output[:, :8])
    with pytest.warns(UserWarning, match="20 tokens"):
        assert model.generate(PROMPT, eos_token_id=[]).shape == (1, 20)


def test_greedy_takes_no_notice_of_sampling_options(model: AutoModel) -> None:
    greedy = model.generate(PROMPT, max_new_tokens=6)
    assert model.generate(PROMPT, max_new_tokens=6, temperature=5.0, top_p=0.1, top_k=3).equal(greedy)


def test_samples_repeat_with_torchs_seed_and_differ_without(model: AutoModel) -> None:
    options = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 12, "eos_token_id": []}
    both = torch.cat((PROMPT, PROMPT))

    def samples(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model.generate(both, num_return_sequences=2, **options)

    first = samples(1)
    assert first.shape == (4, 17)
    assert len({tuple(row) for row in first.tolist()}) == 4
    assert samples(1).equal(first)
    assert not samples(2).equal(first)


def test_padding_on_the_left_is_found_without_a_mask(model: AutoModel) -> None:
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), PROMPT), dim=1)
    options = {"max_new_tokens": 6, "eos_token_id": []}
    assert model.generate(padded, **options)[:, 8:].equal(model.generate(PROMPT, **options)[:, 5:])


def test_finished_rows_are_filled_with_padding(model: AutoModel) -> None:
    free = model.generate(PROMPT, max_new_tokens=8, eos_token_id=[])
    batch = torch.cat((PROMPT, PROMPT.flip(1)))
    stop = free[0, 6].item()
    output = model.generate(batch, max_new_tokens=8, eos_token_id=stop, pad_token_id=11)
    length = free[0, 5:].tolist().index(stop) + 1
    assert output[0, 5 : 5 + length].equal(free[0, 5 : 5 + length])
    assert (output[0, 5 + length :] == 11).all()


def test_a_streamer_hears_the_prompt_and_each_token(model: AutoModel) -> None:
    class Streamer:
        def __init__(self) -> None:
            self.heard: list[Tensor] = []
            self.ended = False

        def put(self, value: Tensor) -> None:
            self.heard.append(value)

        def end(self) -> None:
            self.ended = True

    streamer = Streamer()
    output = model.generate(PROMPT, max_new_tokens=5, streamer=streamer)
    assert streamer.ended
    assert streamer.heard[0].equal(PROMPT)
    assert torch.cat([value.flatten() for value in streamer.heard]).equal(output[0])


def test_streamed_rows_grow_by_one_token(model: AutoModel) -> None:
    whole = model.generate(PROMPT, max_new_tokens=5, eos_token_id=[])
    rows = list(model.stream_generate(PROMPT, max_new_tokens=5, eos_token_id=[]))
    assert [row.shape[1] for row in rows] == [6, 7, 8, 9, 10]
    assert all(row.equal(whole[:, : row.shape[1]]) for row in rows)
    pairs = model.stream_generate(PROMPT, max_new_tokens=5, eos_token_id=[], return_past_key_values=True)
    assert all(row.equal(other) and past is None for row, (other, past) in zip(rows, pairs, strict=True))


@pytest.mark.parametrize("past", [False, True])
def test_a_closed_stream_leaves_nothing_running(
    model: AutoModel, tokenizer: AutoTokenizer, past: bool
) -> None:
    stream = model.stream_chat(
        tokenizer, "hello", temperature=3.0, max_new_tokens=50, return_past_key_values=past
    )
    next(stream)
    assert model.runtime.engine.has_work
    stream.close()
    assert not model.runtime.engine.has_work


def test_streams_can_be_read_by_turns(model: AutoModel, tokenizer: AutoTokenizer) -> None:
    def start(query: str) -> Any:
        return model.stream_chat(tokenizer, query, do_sample=False, max_new_tokens=10)

    alone = [list(start(query)) for query in ("hello", "world")]
    streams = [start(query) for query in ("hello", "world")]
    together: list[list[Any]] = [[], []]
    for _ in range(12):
        for items, stream in zip(together, streams):
            items.extend(item for item in [next(stream, None)] if item is not None)
    assert together == alone


def test_the_published_guard_against_nan_is_accepted(model: AutoModel, tokenizer: AutoTokenizer) -> None:
    class InvalidScoreLogitsProcessor:
        pass

    class Other:
        pass

    model.chat(tokenizer, "hi", logits_processor=[InvalidScoreLogitsProcessor()], max_new_tokens=1)
    with pytest.raises(InvalidParameterError, match="Other"):
        model.chat(tokenizer, "hi", logits_processor=[Other()])


def test_wrong_options(model: AutoModel, tokenizer: AutoTokenizer) -> None:
    for options, message in [
        ({"bad_words_ids": [[1]]}, "bad_words_ids"),
        ({"max_length": 5, "max_new_tokens": None}, "max_length is 5"),
        ({"do_sample": True, "temperature": -1.0}, "temperature"),
        ({"num_beams": 2, "do_sample": True}, "do_sample=False"),
        ({"num_beams": 2, "repetition_penalty": 1.1}, "repetition_penalty"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"num_return_sequences": 0}, "num_return_sequences"),
        ({"num_beams": 0}, "num_beams"),
        ({"attention_mask": torch.tensor([[1, 1, 0, 1, 1]])}, "holes"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 1, 0]])}, "left"),
        ({"position_ids": PROMPT}, "position_ids"),
        ({"streamer": object(), "num_beams": 2}, "streamed"),
    ]:
        with pytest.raises((InvalidParameterError, PromptTooLongError), match=message):
            model.generate(PROMPT, **{"max_new_tokens": 3, **options})
    with pytest.raises(PromptTooLongError, match="513"):
        model.generate(torch.full((1, 513), 5), max_new_tokens=1)
    with pytest.raises(InvalidParameterError, match="past_key_values"):
        model.stream_chat(tokenizer, "hi", past_key_values=object())  # type: ignore[arg-type]
    with pytest.raises(InvalidParameterError, match="AutoTokenizer"):
        model.chat(tiny_tokenizer_file(), "hi")
    with pytest.raises(InvalidMessageError, match="'bot'"):
        model.chat(tokenizer, "hi", role="bot")
    with pytest.raises(InvalidParameterError, match="tempreature"):
        model.stream_chat(tokenizer, "hi", tempreature=1.0)
