"""The network through Triton's kernels, decoding in batches that are filled up as CUDA graphs want it."""

from __future__ import annotations

import pytest
import torch

from chatglm3.attention import packed_batch
from chatglm3.engine import Engine, SamplingParams
from chatglm3.engine.graphs import DecodeGraphs
from chatglm3.fused_cuda import CudaNetwork
from chatglm3.quant import QuantConfig, quantize_model
from tests.kernels.triton_device import DEVICE, assert_close
from tests.tiny import tiny_config, tiny_model

from chatglm3.kernels.triton.matmul import TritonWeight  # isort: skip  (after the check for Triton)

GREEDY = SamplingParams(max_tokens=3, temperature=0)
PROMPTS = [[5, 6, 7], [9] * 6, [30, 31]]


@pytest.fixture
def model():
    return tiny_model(tiny_config(num_layers=1)).to(DEVICE)


@pytest.mark.parametrize("final_norm", [True, False])
def test_the_network_equals_the_reference(final_norm):
    model = tiny_model(tiny_config(final_norm=final_norm)).to(DEVICE)
    tokens = torch.arange(9, device=DEVICE) * 7
    positions = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1, 2], device=DEVICE)

    def run():
        batch = packed_batch(model.config, [6, 3], device=DEVICE)
        hidden = model(tokens, positions, batch)
        return model.logits(hidden), batch.cache.keys[1]

    with torch.inference_mode():
        expected = run()
        model.fused = CudaNetwork(model)
        actual = run()
    assert_close(actual[0] / 10, expected[0] / 10)
    assert_close(actual[1] / 10, expected[1] / 10)


@torch.inference_mode()
def test_quantized_linears_run_through_their_own_kernel(model):
    quantize_model(model, QuantConfig("int4"))
    batch = packed_batch(model.config, [1], device=DEVICE)
    tokens = positions = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    linear = model.layers[0].qkv
    plain = linear.plain()
    expected = model(tokens, positions, batch)
    linear._packed = TritonWeight(4, linear.scheme.group_size, **plain, columns=linear.columns)
    assert all(torch.equal(linear.plain()[name], plain[name]) for name in plain)
    model.fused = CudaNetwork(model)
    # The CPU's own int4 kernel rounds activations to 8 bits.
    error = (model(tokens, positions, batch) - expected).abs().max() / expected.abs().max()
    assert error < (0.05 if DEVICE.type == "cpu" else 1e-4)


def test_batches_filled_up_to_the_size_of_a_graph_give_the_same_answers(model, monkeypatch):
    if DEVICE.type == "cpu":  # a graph can be captured on CUDA only; here each step runs as it is
        monkeypatch.setattr(DecodeGraphs, "_capture", lambda graphs, size: lambda: graphs._step(size))
    monkeypatch.setenv("CHATGLM3_CUDA_GRAPHS", "off")
    options = {"num_blocks": 24, "block_size": 4, "max_sequences": 8, "max_batch_tokens": 16}
    expected = [one[0].ids for one in Engine(model, **options).generate(PROMPTS, GREEDY)]
    monkeypatch.delenv("CHATGLM3_CUDA_GRAPHS")
    monkeypatch.setattr("chatglm3.engine.engine.fuse", lambda model: None)
    model.fused = CudaNetwork(model)
    engine = Engine(model, **options)
    assert [one[0].ids for one in engine.generate(PROMPTS, GREEDY)] == expected
    assert 4 in engine._runner._graphs._replays  # 3 sequences and a place for none
    engine.check()


def test_there_is_a_graph_for_every_number_of_sequences():
    for most in (1, 3, 8, 16, 40, 64):
        graphs = DecodeGraphs(lambda size: torch.zeros(size, 1), most)
        sizes = [graphs.size_for(count) for count in range(1, most + 1)]
        assert all(size >= count for count, size in enumerate(sizes, 1))
        assert max(sizes) == most
        assert len(set(sizes)) <= 5 + most // 16
