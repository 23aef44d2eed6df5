"""What happens beside the training loop: a progress bar, and stopping without losing anything."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState


class Interrupt(TrainerCallback):
    """Ctrl-C or SIGTERM: end the step, save, stop. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the signals over."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> TrainerControl:
        """Save and stop, if asked to."""
        if _anywhere(self.asked):
            self.asked = True
            control.should_save = control.should_training_stop = True
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Give the signals back."""
        self.restore()

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


def _anywhere(asked: bool) -> bool:
    """Whether any process of the run was asked: all of them have to stop at the same step."""
    if not torch.distributed.is_initialized():
        return asked
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    flag = torch.tensor([float(asked)], device=device)
    torch.distributed.all_reduce(flag)
    return bool(flag.item())


class ProgressBar(TrainerCallback):
    """Steps, loss, tokens a second, memory, time left; and a line for each evaluation."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[loss]}  {task.fields[speed]}  {task.fields[memory]}"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task: Any = None
        self._tokens, self._time = 0, 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Show it."""
        if state.is_world_process_zero:
            self._task = self._bar.add_task(
                "", total=state.max_steps, completed=state.global_step, loss="", speed="", memory=""
            )
            self._bar.start()
            self._tokens, self._time = state.num_input_tokens_seen, time.perf_counter()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """One step further."""
        if self._task is not None:
            now = time.perf_counter()
            speed = (state.num_input_tokens_seen - self._tokens) / max(now - self._time, 1e-9)
            self._tokens, self._time = state.num_input_tokens_seen, now
            self._bar.update(
                self._task, completed=state.global_step, speed=f"{speed:,.0f} tok/s", memory=memory_in_use()
            )

    def on_log(self, args: Any, state: TrainerState, control: Any, **given: Any) -> None:
        """The newest loss; an evaluation gets a line of its own."""
        if self._task is None:
            return
        logs: dict[str, Any] = given["logs"]
        if "loss" in logs:
            self._bar.update(self._task, loss=f"loss {logs['loss']:.4f}")
        shown = {name: value for name, value in logs.items() if name.startswith("eval_")}
        if shown:
            values = "  ".join(f"{k.removeprefix('eval_')} {v:.4f}" for k, v in shown.items())
            self._console.print(f"step {state.global_step}: validation {values}", highlight=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take it away."""
        self.stop()

    def stop(self) -> None:
        """Take it away."""
        if self._task is not None:
            self._bar.stop()
            self._task = None


def memory_in_use() -> str:
    """Peak of the GPU, or what the process holds now."""
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    return f"{psutil.Process().memory_info().rss / 1e9:.1f} GB"
