"""What is trained of a network: a low-rank update, a prefix, or every weight."""

from __future__ import annotations

from peft import LoraConfig, PeftModel, PeftModelForCausalLM, PrefixTuningConfig, TaskType
from torch import nn

from chatglm3.train.base import TrainableGlm
from chatglm3.train.config import FinetuneConfig
from chatglm3.train.prefix import ATTENTION, PrefixTunedGlm

Trained = TrainableGlm | PeftModel


def prepare_model(model: TrainableGlm, config: FinetuneConfig) -> Trained:
    """The network with what `config.method` trains, in fp32; all else is frozen."""
    if config.method == "full":
        model.requires_grad_(True)
        return model
    model.name_or_path = config.model  # what peft writes down as the adapter's base
    if config.method == "ptuning":
        network = model.config
        prefix = PrefixTuningConfig(
            task_type=TaskType.CAUSAL_LM,
            num_virtual_tokens=config.ptuning.length,
            prefix_projection=config.ptuning.projection,
            encoder_hidden_size=network.hidden_size,
            num_layers=network.num_hidden_layers,
        )
        model.set_attn_implementation(ATTENTION)
        return PrefixTunedGlm(model, prefix)
    return PeftModelForCausalLM(model, lora_config(config))


def lora_config(config: FinetuneConfig) -> LoraConfig:
    """The low-rank update in peft's words."""
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=list(config.lora.targets),
        use_dora=config.lora.dora,
    )


def trained_parameters(model: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
