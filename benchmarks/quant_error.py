"""What each quantization scheme changes in a model's answers: `python -m benchmarks.quant_error`.

Every scheme is applied to the same float32 network and compared with it on the same tokens: relative squared
error of the weights, mean KL divergence of the next-token distribution from that of the float32 network,
share of positions where the most likely token is the same, and perplexity. There are two random networks,
with normal weights, and with 1 % of each weight's columns 8 times as large (trained networks have a few
such); and nano, or the folder given by --model, which must be one that nano's recipe trained.

llama.cpp's formulas stand beside ours (benchmarks/gguf_formulas.py), on the same weights, and calibrated int4
(chatglm3/calibration), from other samples of the same kind and, for nano, from the package's own texts. A
last row has the float32 network over a cache of keys and values in 8 bits.

Random networks are scored on random tokens, where perplexity means nothing and is left out; nano on held-out
conversations of its recipe, at the tokens an assistant writes.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gguf_formulas import q4_k_m, restore
from chatglm3 import hub
from chatglm3.attention import packed_batch
from chatglm3.calibration import calibrated_weights, calibration_samples
from chatglm3.checkpoint import Checkpoint, empty_model, load_model, save_model
from chatglm3.config import ModelConfig
from chatglm3.model import ChatGLMModel
from chatglm3.prompt import Message, render
from chatglm3.quant import SCHEMES, QuantConfig, quantize_structure
from chatglm3.tokenizer import Tokenizer
from recipes.nano.data import conversation

INT8_CACHE = "float32, cache in int8"
LINEARS_ONLY = {"embedding": None, "output": None}
PUBLISHED = "published int4 (a row)"
VARIANTS = {
    "published int8 (a row)": QuantConfig("published-int8", **LINEARS_ONLY),
    PUBLISHED: QuantConfig("published-int4", **LINEARS_ONLY),
    "int8, linears only": QuantConfig("int8", **LINEARS_ONLY),
    "int4 g32, linears only": QuantConfig("int4", **LINEARS_ONLY),
    "int4 g64, linears only": QuantConfig("int4", 64, **LINEARS_ONLY),
    "int4 g128, linears only": QuantConfig("int4", 128, **LINEARS_ONLY),
    "**int8** (embedding, output int8)": QuantConfig("int8"),
    "**int4** (embedding, output int8)": QuantConfig("int4"),
    "int4, output int4 too": QuantConfig("int4", output="int4"),
    "int4, output and embedding int4": QuantConfig("int4", embedding="int4", output="int4"),
}
FORMULAS = {
    "Q4_0, linears only": "Q4_0",
    "Q4_K, linears only": "Q4_K",
    "Q4_K_M, linears only": None,
}
CHATGLM3_6B = ModelConfig(28, 4096, 32, 2, 128, 13696, 65024, 8192)
RANDOM = ModelConfig(6, 512, 8, 2, 64, 1536, 4096, 1024, dtype="float32")


@dataclass(frozen=True)
class Sample:
    """Token ids, and at which of them the prediction counts (the token's own index)."""

    ids: list[int]
    counted: list[bool]


@torch.inference_mode()
def log_probabilities(
    model: ChatGLMModel, samples: list[Sample], *, int8_cache: bool = False
) -> list[Tensor]:
    """For each sample [tokens counted, vocab]: float64 log-probabilities of the tokens that count."""
    found = []
    for sample in samples:
        tokens = torch.tensor(sample.ids)
        batch = packed_batch(model.config, [len(tokens)], int8=int8_cache)
        logits = model.logits(model(tokens, torch.arange(len(tokens)), batch))
        predicts = torch.tensor([*sample.counted[1:], False])
        found.append(logits[predicts].double().log_softmax(dim=1))
    return found


def compare(
    name: str,
    model: ChatGLMModel,
    samples: list[Sample],
    calibrations: dict[str, list[list[int]]],
    with_perplexity: bool,
) -> None:
    """Print one table. calibrations: samples to calibrate with, as ids, by the name of their row."""
    print(f"\n{name}\n")
    print(
        "| scheme | error of the linears | KL to float32 | of published int4 | same top token | perplexity |"
    )
    print("|---|---|---|---|---|---|")
    reference = log_probabilities(model, samples)
    targets = [torch.tensor(s.ids)[torch.tensor([False, *s.counted[1:]])] for s in samples]
    kls: dict[str, float] = {}
    for variant in ["float32", *VARIANTS, *FORMULAS, *calibrations, INT8_CACHE]:
        found, error = reference, 0.0
        if variant in VARIANTS:
            quantized, error = quantized_copy(model, VARIANTS[variant])
            found = log_probabilities(quantized, samples)
        elif variant in FORMULAS:
            quantized, error = formula_copy(model, FORMULAS[variant])
            found = log_probabilities(quantized, samples)
        elif variant in calibrations:
            quantized, error = calibrated_copy(model, calibrations[variant])
            found = log_probabilities(quantized, samples)
        elif variant == INT8_CACHE:
            found = log_probabilities(model, samples, int8_cache=True)
        pairs = list(zip(reference, found, strict=True))
        kl = torch.cat([F.kl_div(q, p, reduction="none", log_target=True).sum(1) for p, q in pairs]).mean()
        same = torch.cat([p.argmax(1) == q.argmax(1) for p, q in pairs]).double().mean()
        chosen = torch.cat([q.gather(1, t[:, None]) for q, t in zip(found, targets, strict=True)])
        kls[variant] = float(kl)
        share = f"{float(kl) / kls[PUBLISHED]:.3f}" if PUBLISHED in kls else ""
        perplexity = f"{(-chosen.mean()).exp():.4f}" if with_perplexity else ""
        print(f"| {variant} | {error:.5f} | {kl:.5f} | {share} | {same:.1%} | {perplexity} |")


def quantized_copy(model: ChatGLMModel, config: QuantConfig) -> tuple[ChatGLMModel, float]:
    """The model with its quantized weights dequantized to float32 again, and their relative squared error."""
    changed = copy.deepcopy(model)
    lost = total = 0.0
    for name, module in changed.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding) and (scheme := config.scheme_for(name)) is not None:
            # The published scheme works in the weight's own dtype, which was float16.
            weight = (
                module.weight.data.half() if config.scheme.startswith("published") else module.weight.data
            )
            restored = scheme.dequantize(scheme.quantize(weight), weight.shape[1]).float()
            if name.startswith("layers"):
                lost += float((module.weight.data - restored).square().sum())
                total += float(module.weight.data.square().sum())
            module.weight.data = restored
    return changed, lost / total


def formula_copy(model: ChatGLMModel, form: str | None) -> tuple[ChatGLMModel, float]:
    """The model with the linears of its layers after a formula of llama.cpp, None for the mixture Q4_K_M."""
    layers = model.config.num_layers
    return changed_copy(model, lambda name, weight: restore(weight, form or q4_k_m(name, layers)))


def calibrated_copy(model: ChatGLMModel, samples: list[list[int]]) -> tuple[ChatGLMModel, float]:
    """The model with the linears of its layers in int4, calibrated with these samples, as ids."""
    config = QuantConfig("int4", **LINEARS_ONLY)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, model.config, folder)
        checkpoint = Checkpoint(folder, model.config)
        stored = dict(calibrated_weights(checkpoint, model.config, config, samples))

    def restored(name: str, weight: Tensor) -> Tensor:
        plain = {part: stored[f"{name}.{part}"] for part in ("qweight", "scales")}
        return SCHEMES["int4"].dequantize(plain, weight.shape[1])

    return changed_copy(model, restored)


def changed_copy(model: ChatGLMModel, change: Callable[[str, Tensor], Tensor]) -> tuple[ChatGLMModel, float]:
    """The model with each linear of its layers changed, and the relative squared error of that."""
    changed = copy.deepcopy(model)
    lost = total = 0.0
    for name, module in changed.named_modules():
        if isinstance(module, nn.Linear) and name.startswith("layers"):
            weight = module.weight.data
            restored = change(name, weight)
            lost += float((weight - restored).square().sum())
            total += float(weight.square().sum())
            module.weight.data = restored
    return changed, lost / total


def sizes() -> None:
    """Print what the schemes weigh on disk at the 6B shape."""
    print("\n| scheme | bits a weight of the linears | 6B checkpoint, GB | read for each token, GB |")
    print("|---|---|---|---|")
    for variant, config in [("bfloat16", None), *VARIANTS.items()]:
        model = empty_model(CHATGLM3_6B).bfloat16()
        if config is not None:
            quantize_structure(model, config)
        linears = [
            m for n, m in model.named_modules() if n.startswith("layers.") and hasattr(m, "in_features")
        ]
        weights = sum(m.in_features * m.out_features for m in linears)
        held = sum(t.nbytes for m in linears for n, t in m.state_dict().items() if n != "bias")
        total = sum(tensor.nbytes for tensor in model.state_dict().values())
        embedding = sum(tensor.nbytes for tensor in model.embedding.state_dict().values())
        print(
            f"| {variant} | {8 * held / weights:.2f} | {total / 1e9:.2f} | {(total - embedding) / 1e9:.2f} |"
        )


def random_model(outliers: bool) -> ChatGLMModel:
    """Weights that keep the size of activations; the output layer spreads the logits over a few nats."""
    generator = torch.Generator().manual_seed(0)
    model = ChatGLMModel(RANDOM)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            noise = torch.randn(parameter.shape, generator=generator)
            if outliers and name.startswith("layers"):
                noise[:, torch.randperm(noise.shape[1], generator=generator)[: noise.shape[1] // 100]] *= 8
            scale = {"embedding.weight": 1.0, "output.weight": 3 / RANDOM.hidden_size**0.5}
            parameter.data = noise * scale.get(name, 1 / noise.shape[1] ** 0.5)
        elif name.endswith("bias"):
            parameter.data.zero_()
    return model


def random_samples(seed: int = 1, count: int = 2) -> list[Sample]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(RANDOM.vocab_size, (count, 256), generator=generator).tolist()
    return [Sample(row, [True] * len(row)) for row in ids]


def nano_samples(tokenizer: Tokenizer, count: int, longest: int) -> list[Sample]:
    """Held-out conversations of nano's recipe that fit its context."""
    samples: list[Sample] = []
    index = 0
    while len(samples) < count:
        messages = [Message.from_dict(message) for message in conversation(0, index, "heldout")]
        rendered = render(messages, tokenizer, add_generation_prompt=False)
        if len(rendered.ids) <= longest:
            samples.append(Sample(rendered.ids, rendered.loss_mask))
        index += 1
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="nano", help="nano, or a folder that its recipe made")
    parser.add_argument("--conversations", type=int, default=40)
    args = parser.parse_args()
    sizes()
    alike = "int4 g32, linears only, calibrated"
    calibrations = {alike: [sample.ids for sample in random_samples(seed=7, count=16)]}
    for name, outliers in (("Random, normal weights", False), ("Random, 1 % outlier columns", True)):
        compare(name, random_model(outliers=outliers), random_samples(), calibrations, with_perplexity=False)
    folder = hub.resolve(args.model)
    model = load_model(folder, dtype=torch.float32)
    count = args.conversations
    tokenizer = Tokenizer(folder)
    samples = nano_samples(tokenizer, 2 * count, model.config.max_seq_len)
    calibrations = {
        alike: [sample.ids for sample in samples[count:]],
        f"{alike} with the package's texts": calibration_samples(
            tokenizer, max_seq_len=model.config.max_seq_len
        ),
    }
    name = f"{args.model}, held-out conversations"
    compare(name, model, samples[:count], calibrations, with_perplexity=True)


if __name__ == "__main__":
    main()
