"""transformers' Trainer with what it lacks: an exact validation loss, answers, guards, whole checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer

from chatglm3.adapters import write_base
from chatglm3.errors import TrainingError
from chatglm3.train.prefix import PrefixTunedGlm
from chatglm3.train.rows import LengthGrouped, Rows

_ENCODER_FILE = "prompt_encoder.safetensors"
"""peft saves the prefix that a projection gives; to go on training one needs the projection itself."""


class Guards(Trainer):
    """Stops at the first number that is none, and leaves no half-written checkpoint behind."""

    state: Any
    base: tuple[str, Path]
    """What the base of an adapter is called, and its folder."""

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """One micro-batch. Raises TrainingError, naming its samples, where the loss is not finite."""
        self._samples = inputs.pop("where", [])
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        if not torch.isfinite(loss):
            raise TrainingError(self._stopped(f"the loss is {loss.item()}"))
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not torch.isfinite(torch.as_tensor(norm)):
            raise TrainingError(self._stopped(f"the gradient's norm is {float(norm)}"))
        return norm

    @property
    def _output(self) -> Path:
        assert self.args.output_dir is not None
        return Path(self.args.output_dir)

    def _stopped(self, what: str) -> str:
        samples = ", ".join(self._samples) or "unknown"
        return (
            f"{what} in step {self.state.global_step + 1}, after the samples {samples}; the weights are "
            "those of the step before. Look at these samples, lower learning_rate or raise warmup, and go on "
            "from the last checkpoint with resume=true"
        )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = self._output / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            # What cannot be written raises OSError, RuntimeError (torch) or SafetensorError.
            shutil.rmtree(folder, ignore_errors=True)
            raise TrainingError(
                f"{folder} could not be written ({error}) and was removed; older checkpoints are whole. "
                "Make room, then go on with resume=true"
            ) from error

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not isinstance(self.model, PeftModel):
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or self._output)
        # Without being asked not to, peft looks for the base's config on a hub.
        self.model.save_pretrained(str(folder), state_dict=state_dict, save_embedding_layers=False)
        write_base(folder, *self.base)
        if isinstance(self.model, PrefixTunedGlm):
            save_file(self.model.prompt_encoder.state_dict(), folder / _ENCODER_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if isinstance(self.model, PrefixTunedGlm):
            encoder = load_file(Path(resume_from_checkpoint) / _ENCODER_FILE)
            self.model.prompt_encoder.load_state_dict(encoder)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if isinstance(self.model, PrefixTunedGlm):
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()


class AnswerTrainer(Guards):
    """Learns answers.

    answerer: called with the network and the step in each evaluation; what it returns is logged.
    """

    def __init__(
        self,
        *args: Any,
        group_by_length: bool = False,
        answerer: Callable[[nn.Module, int], dict[str, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._group_by_length = group_by_length
        self._answerer = answerer

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        rows = train_dataset or self.train_dataset
        if self._group_by_length and isinstance(rows, Rows):
            return LengthGrouped(rows.lengths, self.args.per_device_train_batch_size, self.args.seed)
        sampler: Sampler[int] | None = super()._get_train_sampler(train_dataset)
        return sampler

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The mean loss over all learnt tokens, whatever the batches; and what the answers measure.

        Several processes get equally many batches: rows that fill up the last ones count twice.
        """
        model = self.model_wrapped if self.is_in_train else self.model
        assert model is not None
        training = model.training
        model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)  # sum of losses, tokens
        with torch.no_grad():
            for batch in self.get_eval_dataloader(eval_dataset):
                batch.pop("where", None)
                inputs = self._prepare_inputs(batch)
                tokens = (inputs["labels"][:, 1:] != -100).sum()
                with self.compute_loss_context_manager():
                    loss = model(**inputs, num_items_in_batch=1).loss
                total += torch.stack((loss.double(), tokens.double()))
        total = self.accelerator.reduce(total)
        metrics = {f"{metric_key_prefix}_loss": (total[0] / total[1].clamp(min=1)).item()}
        if self._answerer is not None:
            found = self._answerer(model, self.state.global_step)
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        model.train(training)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
