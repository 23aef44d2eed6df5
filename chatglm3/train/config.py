"""What a fine-tuning run is told: one small file of YAML, and `key=value` after it on the command line.

Every key is here, with its default. A key that is not here, or a value of the wrong kind, is an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from chatglm3.errors import InvalidParameterError

Method = Literal["lora", "qlora", "ptuning", "full"]
Metric = Literal["rouge-l", "bleu-4", "tool-calls"]

Linear = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Files = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A part of the configuration: closed and unchangeable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class LoraSettings(Section):
    """Low-rank updates (arXiv:2106.09685) of linear layers, trained in fp32."""

    rank: Positive = 8
    alpha: Positive = 16
    """The update counts alpha / rank times."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    targets: Annotated[tuple[Linear, ...], BeforeValidator(_listed)] = get_args(Linear)
    """Linear layers, by their names in the Glm layout. q_proj, k_proj, v_proj are the published choice."""
    dora: bool = False
    """Learn each column's length apart from its direction (DoRA, arXiv:2402.09353)."""


class QloraSettings(Section):
    """The frozen base of `qlora` (arXiv:2305.14314); the update itself is `lora`'s."""

    base: Literal["nf4", "int4", "int8"] = "int4"
    """nf4 is bitsandbytes', for CUDA; int4 and int8 are this package's and run everywhere. A folder that
    `chatglm3 quantize` wrote is taken as it is."""


class PtuningSettings(Section):
    """A learnt prefix of keys and values in every layer (P-Tuning v2, arXiv:2110.07602)."""

    length: Positive = 128
    projection: bool = False
    """Learn the prefix as the output of a small network, which is dropped afterwards."""


class DpoSettings(Section):
    """Direct preference optimization (arXiv:2305.18290)."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly the model is held to what it was before."""


class SampleSettings(Section):
    """Answers written during evaluation, greedily."""

    count: Annotated[int, Field(ge=0)] = 0
    """Validation samples that are answered; 0 writes none."""
    show: Annotated[int, Field(ge=0)] = 3
    """How many of them are shown."""
    max_tokens: Positive = 256
    metrics: Annotated[tuple[Metric, ...], BeforeValidator(_listed)] = ()
    """What the answers are measured by, against the samples' own."""


class FinetuneConfig(Section):
    """One run."""

    model: str = "chatglm3-6b"
    """The base: a name, a folder in either layout, or a hub's id."""
    revision: str | None = None
    """Branch, tag or commit of a model on a hub."""
    output: str
    """A folder for checkpoints, logs and what comes out."""
    train: Files
    """Files of samples."""
    validation: Files = ()
    max_length: Positive = 2048
    """Tokens of a sample."""
    too_long: Literal["refuse", "skip"] = "refuse"
    """What becomes of a longer one. Nothing is ever cut."""

    task: Literal["sft", "dpo"] = "sft"
    """Learn answers, or which of two answers is better."""
    method: Method = "lora"
    lora: LoraSettings = LoraSettings()
    qlora: QloraSettings = QloraSettings()
    ptuning: PtuningSettings = PtuningSettings()
    dpo: DpoSettings = DpoSettings()

    epochs: Annotated[float, Field(gt=0)] = 3
    steps: Positive | None = None
    """Updates, instead of epochs."""
    batch_size: Positive = 16
    """Samples of one update, over all devices. With packing: packs."""
    micro_batch_size: Positive = 1
    """Samples that a device computes at a time; memory grows with it."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """1e-4 for lora and qlora, 2e-2 for ptuning, 1e-5 for full, and a twentieth of these for dpo."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """What the learning rate does after the warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the updates in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    seed: int = 42

    packing: bool = False
    """Several samples in one sequence of max_length tokens; none sees another."""
    group_by_length: bool = False
    """Samples of about the same length in one batch: less padding, less mixing."""
    gradient_checkpointing: bool = False
    """Compute activations again instead of keeping them: a third more time, much less memory."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the computation; bfloat16 on a GPU, float32 on a CPU. What is trained is kept in float32."""
    device: Literal["cpu", "cuda"] | None = None
    fsdp: bool = False
    """Share weights, gradients and optimizer state among the processes of torchrun (FSDP2)."""
    deepspeed: str | None = None
    """A DeepSpeed configuration, examples/finetune/deepspeed_zero2.json for one."""

    log_every: Positive = 10
    """Updates between two lines of the log."""
    evaluate_every: Positive | None = None
    """Updates between two evaluations; once an epoch by default."""
    save_every: Positive | None = None
    """Updates between two checkpoints; as often as it evaluates, by default."""
    keep: Positive = 2
    """Checkpoints that stay; the best one always does."""
    early_stopping: Positive | None = None
    """Stop after this many evaluations without a lower validation loss."""
    samples: SampleSettings = SampleSettings()
    report_to: Annotated[tuple[Literal["tensorboard", "wandb"], ...], BeforeValidator(_listed)] = (
        "tensorboard",
    )
    resume: bool = False
    """Go on from the newest checkpoint in `output`."""
    check_memory: bool = True
    """Refuse to start where the estimate says that memory will not do."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.train:
            raise ValueError("train: name at least one file")
        if self.early_stopping and not self.validation:
            raise ValueError("early_stopping: it watches the validation loss; name files under validation")
        if self.samples.metrics and not (self.samples.count and self.validation):
            raise ValueError("samples.metrics: they need samples.count above 0 and validation files")
        if self.task == "dpo" and (self.packing or self.samples.count):
            raise ValueError("task: dpo takes neither packing nor samples")
        if self.task == "dpo" and self.method == "ptuning":
            raise ValueError("task: dpo works with lora, qlora and full")
        if self.fsdp and self.deepspeed:
            raise ValueError("fsdp: choose it or deepspeed, not both")
        if self.method == "qlora" and (self.fsdp or self.deepspeed):
            raise ValueError("method: qlora's base is whole on every device; leave fsdp and deepspeed out")
        return self

    @property
    def rate(self) -> float:
        """The learning rate, by default the method's."""
        usual = {"lora": 1e-4, "qlora": 1e-4, "ptuning": 2e-2, "full": 1e-5}[self.method]
        return self.learning_rate or (usual / 20 if self.task == "dpo" else usual)

    @property
    def trains_adapter(self) -> bool:
        """Whether what comes out is an adapter and not a model."""
        return self.method != "full"


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> FinetuneConfig:
    """The configuration of a YAML file, changed by `key=value` words such as `lora.rank=16`.

    Raises InvalidParameterError, naming the key and the nearest right one.
    """
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidParameterError(f"{path} is not YAML: {error}") from None
        if not isinstance(data, dict):
            raise InvalidParameterError(
                f"{path} holds {type(data).__name__}; it must hold `key: value` lines"
            )
    for word in overrides:
        _override(data, word)
    return parse_config(data)


def parse_config(data: Mapping[str, Any]) -> FinetuneConfig:
    """The configuration from parsed YAML. Raises InvalidParameterError."""
    try:
        return FinetuneConfig.model_validate(data)
    except ValidationError as error:
        raise InvalidParameterError("; ".join(map(_explain, error.errors()))) from None


def _override(data: dict[str, Any], word: str) -> None:
    key, separator, text = word.partition("=")
    if not separator or not key:
        raise InvalidParameterError(f"{word!r} is no key=value, as in lora.rank=16")
    try:
        value = _number(yaml.safe_load(text))
    except yaml.YAMLError:
        value = text
    *sections, last = key.split(".")
    for section in sections:
        inner = data.setdefault(section, {})
        if not isinstance(inner, dict):
            raise InvalidParameterError(f"{key}: {section} holds a value and no keys")
        data = inner
    data[last] = value


def _number(value: Any) -> Any:
    """YAML takes 1e-4, without a dot, for text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _explain(error: Any) -> str:
    place = [part for part in error["loc"] if isinstance(part, str)]
    key = ".".join(place)
    if error["type"] == "extra_forbidden":
        section = FinetuneConfig
        for part in place[:-1]:
            section = section.model_fields[part].annotation  # type: ignore[assignment]
        known = list(section.model_fields)
        near = difflib.get_close_matches(place[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        return f"there is no key {key!r}; {hint}"
    if error["type"] == "missing":
        return f"{key} is missing; give it in the file or as {key}=..."
    message = error["msg"].removeprefix("Value error, ")
    return f"{key} is {error['input']!r:.60}: {message}" if key else message


def describe_keys(section: type[Section] = FinetuneConfig, prefix: str = "") -> list[tuple[str, str, str]]:
    """(key, default, meaning) of every key, sections spelled out."""
    rows: list[tuple[str, str, str]] = []
    for name, field in section.model_fields.items():
        default = field.get_default()
        if isinstance(default, Section):
            rows += describe_keys(type(default), f"{prefix}{name}.")
            continue
        shown = "required" if field.is_required() else _shown(default)
        rows.append((prefix + name, shown, " ".join((field.description or "").split())))
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return (
        {None: "", True: "true", False: "false"}.get(value, str(value))
        if value in (None, True, False)
        else str(value)
    )
