"""Direct preference optimization: TRL's trainer, over pairs that are token ids already."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from tokenizers import Tokenizer as EmptyTokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, TrainingArguments
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from chatglm3.train.base import TrainableGlm
from chatglm3.train.config import FinetuneConfig
from chatglm3.train.data import Store
from chatglm3.train.methods import lora_config
from chatglm3.train.trainer import Guards


class PairTrainer(Guards, DPOTrainer):
    """DPOTrainer with our guards and checkpoints."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset  # token ids already

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Checkpoints need none."""


class _PairCollator(DataCollatorForPreference):
    """Keeps where the pairs come from, for the guards."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        return batch | {"where": [example["where"] for example in examples]}


def dpo_arguments(config: FinetuneConfig, options: dict[str, Any]) -> DPOConfig:
    """TRL's arguments; `options` are those of Trainer."""
    return DPOConfig(**options, beta=config.dpo.beta, max_length=None)


def pair_trainer(
    config: FinetuneConfig,
    arguments: TrainingArguments,
    model: TrainableGlm,
    reference: TrainableGlm | None,
    splits: tuple[Store, Store | None],
) -> PairTrainer:
    """The trainer of `model`.

    reference: what the model was before, where every weight is trained; with an adapter it is the model
        without it.
    """
    assert isinstance(arguments, DPOConfig)
    train, validation = splits
    pad_id = int(model.config.pad_token_id or 0)
    trainer = PairTrainer(
        model,
        reference,
        arguments,
        data_collator=_PairCollator(pad_token_id=pad_id),
        train_dataset=_dataset(train),
        eval_dataset=None if validation is None else _dataset(validation),
        processing_class=_padding_only(),
        peft_config=lora_config(config) if config.trains_adapter else None,
    )
    trainer.processing_class = None  # or it would be saved with each checkpoint
    return trainer


def _dataset(store: Store) -> Dataset:
    rows = []
    for i in range(len(store)):
        pair = store.pair(i)
        ids = {"prompt_ids": pair.prompt, "chosen_ids": pair.chosen, "rejected_ids": pair.rejected}
        rows.append(ids | {"where": store.where(i)})
    return Dataset.from_list(rows)


def _padding_only() -> PreTrainedTokenizerFast:
    """TRL asks for a tokenizer; all it takes from it is the padding id, which is 0 in this family."""
    empty = EmptyTokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=empty, pad_token="<unk>", eos_token="<unk>")
