"""A Trainer of transformers whose batch, learning rate and log follow consumed tokens.

The Trainer's own accumulation is one number for the run. Here a batch of its loader is all that
one rank takes in one optimizer step, and `training_step` cuts it into micro-batches; the loss is
divided by the targets of the whole global batch, as the Trainer does with accumulation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from megascale.errors import ConfigError
from megascale.integrations.foreign_run import ForeignRun
from megascale.integrations.token_clock import TokenClock


class StepSampler:
    """For a DataLoader: the numbers of one rank's sequences, a list an optimizer step."""

    def __init__(self, clock: TokenClock, rank: int) -> None:
        self.clock, self.rank = clock, rank

    def __len__(self) -> int:
        return len(self.clock)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.clock:
            yield [number for rows in step.sequences(self.rank) for number in rows]


class ClockLR(LRScheduler):
    """The clock's learning rate for every group, times the group's share of the base rate."""

    def __init__(self, optimizer: torch.optim.Optimizer, clock: TokenClock, base: float) -> None:
        """Args:
        optimizer: whose groups may have rates of their own.
        clock: the schedule.
        base: the rate at which a group has share 1: `TrainingArguments.learning_rate`.
        """
        self.clock, self.base = clock, base
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        """One rate a group, for the step that comes next."""
        step = self.clock[min(self.last_epoch, len(self.clock) - 1)]
        return [step.lr * (base / self.base) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the step, and not the clock."""
        return {key: self.__dict__[key] for key in ("last_epoch", "base_lrs", "_step_count")}


class _Signals(TrainerCallback):
    """Logs every step, and saves and stops where a rank was told to."""

    def __init__(self, trainer: ScheduledTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        signal = self.trainer.end_of_step()
        if signal is not None:
            control.should_save = control.should_training_stop = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        run = self.trainer.run
        if run is not None:
            run.saved(f"{args.output_dir}/checkpoint-{state.global_step}")


class ScheduledTrainer(Trainer):
    """`transformers.Trainer` on a token clock.

    `train_dataset[i]` is sequence i of the clock's length, with `labels`. What the clock decides is
    not read from the arguments: `per_device_train_batch_size`, `max_steps`, `num_train_epochs`,
    `lr_scheduler_type` and warmup. The log and the signals are those of `ForeignRun`;
    `exit_code` is 75 where a signal stopped the run after a checkpoint.

    Attributes:
        clock: the schedule.
        run: the log, while it trains.
        exit_code: of the last `train`.
    """

    def __init__(self, *args: Any, clock: TokenClock, **kwargs: Any) -> None:
        """Args:
        args, kwargs: of `Trainer`.
        clock: laid out for as many data-parallel ranks as there are processes.

        Raises:
            ConfigError: arguments that the clock would contradict, or a model whose loss cannot be
                divided by the targets of the whole batch.
        """
        super().__init__(*args, **kwargs)
        self.clock = clock
        self.run: ForeignRun | None = None
        self.exit_code: int | None = None
        self._loss = 0.0
        self._targets = 0
        self._norm = float("nan")
        self._check()
        self.args.max_steps = len(clock)
        self.add_callback(_Signals(self))

    def _check(self) -> None:
        args = self.args
        if args.gradient_accumulation_steps != 1:
            rule = "the clock sets the micro-batches of every step"
            given = args.gradient_accumulation_steps
            raise ConfigError.of("gradient_accumulation_steps", given, rule, 1)
        if args.ignore_data_skip:
            rule = "a resumed run would begin again at the first token"
            raise ConfigError.of("ignore_data_skip", True, rule, False)
        if args.world_size != self.clock.data_parallel or args.n_gpu > 1:
            rule = f"the clock was laid out for {self.clock.data_parallel} ranks, one GPU each"
            raise ConfigError.of("processes", args.world_size, rule)
        if args.world_size > 1 and not args.average_tokens_across_devices:
            rule = "the loss is a mean over the global batch"
            raise ConfigError.of("average_tokens_across_devices", False, rule, True)
        if not (self.model_accepts_loss_kwargs or self.compute_loss_func is not None):
            rule = "its loss takes no num_items_in_batch; give compute_loss_func"
            raise ConfigError.of("model", type(self.model).__name__, rule)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """As `Trainer.train`; the log goes to `output_dir`, and goes on where the checkpoint is."""
        done, folder = 0, str(self.args.output_dir)
        if resume_from_checkpoint:
            from transformers.trainer_callback import TrainerState
            from transformers.trainer_utils import get_last_checkpoint

            if resume_from_checkpoint is True:
                resume_from_checkpoint = get_last_checkpoint(folder)
            state = TrainerState.load_from_json(f"{resume_from_checkpoint}/trainer_state.json")
            done = state.global_step
        writes = self.is_world_process_zero()
        with ForeignRun(folder, self.clock, done=done, writes=writes) as run:
            self.run = run
            output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        self.exit_code, self.run = run.exit_code, None
        return output

    def get_train_dataloader(self) -> DataLoader[Any]:
        """One item an optimizer step: this rank's sequences of all micro-batches, in order."""
        dataset: Any = self.train_dataset
        return DataLoader(
            dataset,
            batch_sampler=StepSampler(self.clock, self.args.process_index),
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """The clock's learning rate."""
        if self.lr_scheduler is None:
            used: Any = optimizer if optimizer is not None else self.optimizer
            used = getattr(used, "optimizer", used)  # accelerate wraps it
            made: Any = ClockLR(used, self.clock, self.args.learning_rate)
            self.lr_scheduler, self._created_lr_scheduler = made, True
        return self.lr_scheduler

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward of all micro-batches of the step; returns the mean loss."""
        step = self.clock[self.state.global_step]
        size, total = step.micro_batch_size, torch.zeros((), device=self.args.device)
        for index in range(step.micro_batches):
            rows = slice(index * size, (index + 1) * size)
            micro = {name: value[rows] for name, value in inputs.items()}
            last = index == step.micro_batches - 1
            waiting = contextlib.nullcontext() if last else self.accelerator.no_sync(model=model)
            with waiting:
                total = total + super().training_step(model, micro, num_items_in_batch)
        self._targets = int(num_items_in_batch)
        # compute_loss multiplies by the ranks, whose gradients are averaged.
        self._loss = float(total) * self._targets / self.args.world_size
        return total

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        found = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._norm = float(found)
        return found

    def end_of_step(self) -> str | None:
        """Log the step that ended; the signal on which all ranks leave, if any was told to."""
        run = self.run
        assert run is not None
        local = run.requested()
        sums = torch.tensor([self._loss, float(local is not None)], dtype=torch.float64)
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums.to(self.args.device), "sum").cpu()
        run.finished(
            self.clock[self.state.global_step - 1],
            loss_sum=float(sums[0]),
            loss_tokens=self._targets,
            grad_norm=self._norm,
            weight_decay=self.args.weight_decay,
        )
        if not sums[1] or run.done == len(self.clock):
            return None
        signal = local or "a signal on another rank"
        run.answering(signal)
        return signal
