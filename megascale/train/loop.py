"""The training loop: steps, the guard's verdicts, logs, evaluations, checkpoints, signals."""

from __future__ import annotations

import time
from typing import Any

from megascale.config import RunConfig
from megascale.config.init_section import scaled_beta
from megascale.data.loader import LoadedStep, Loader
from megascale.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    GuardError,
    UserError,
)
from megascale.plan.flops import flops_per_token
from megascale.schedule.batch import BatchSchedule, Segment
from megascale.train.build import Parts
from megascale.train.checkpoint import Checkpointer, list_checkpoints
from megascale.train.evaluate import evaluate
from megascale.train.guard import Decision, Guard, way_out
from megascale.train.rundir import RunDirectory
from megascale.train.saver import RunSaver
from megascale.train.signals import SignalFlags
from megascale.train.stall_watch import StallWatch
from megascale.train.state import RunCounters
from megascale.train.step import StepStatistics, accumulate_gradients
from megascale.train.telemetry.interval import IntervalAccumulator, StepResult
from megascale.train.telemetry.reporter import Reporter


class Loop:
    """One rank's part of a run, from `progress` to the end of the schedule."""

    def __init__(
        self,
        config: RunConfig,
        parts: Parts,
        schedule: BatchSchedule,
        progress: RunCounters,
        *,
        guard: Guard,
        interval: IntervalAccumulator,
        checkpointer: Checkpointer,
        signals: SignalFlags,
        reporter: Reporter | None,
        fresh: bool = False,
        directory: RunDirectory | None = None,
    ):
        """Args:
        schedule: the batch schedule from `progress` on.
        fresh: whether this is the first attempt of a run or branch.
        reporter: rank 0's voice; None on the other ranks.
        directory: as rank 0 holds it; None on the other ranks.
        """
        self.config, self.parts, self.schedule, self.progress = config, parts, schedule, progress
        self.guard, self.interval = guard, interval
        self.checkpointer, self.signals, self.reporter = checkpointer, signals, reporter
        self.fresh = fresh
        self.stopping = False  # some rank was told to stop, and all of them know
        self.skipping = False  # the last step was not applied
        self.postponed = False  # a checkpoint was due while steps were skipped
        self.watch: StallWatch | None = None
        self._ends_at: float | None = None
        if config.train.exit_after_minutes is not None:
            self._ends_at = time.monotonic() + 60 * config.train.exit_after_minutes
        self.saver = RunSaver(
            config,
            parts,
            progress,
            guard=guard,
            interval=interval,
            checkpointer=checkpointer,
            schedule_source=dict(schedule.source),
            event=self._event,
            sync=lambda: reporter.log.sync() if reporter is not None else None,
            told_to_stop=self._told_to_stop,
            directory_lost=lambda: directory is not None and directory.lost,
        )
        self._flops = {
            length: flops_per_token(config.model, length).total
            for length in {segment.sequence_length for segment in schedule.segments}
        }

    def run(self) -> int:
        """Train to the last token, or until a signal or the guard stops the run.

        Returns:
            `EXIT_DONE`, or `EXIT_INTERRUPTED` when a signal was answered with a checkpoint.

        Raises:
            GuardError: the budget for skipped steps is spent.
            RunError: a log or a checkpoint cannot be written.
            DataError: the data cannot be read any more.
        """
        mesh, config = self.parts.mesh, self.config
        loader = Loader(
            self.parts.stream,
            self.schedule,
            consumed_tokens=self.progress.tokens,
            data_parallel=mesh.dp_size,
            dp_rank=mesh.dp_rank,
            mask_documents=config.data.mask_documents,
            pin_memory=mesh.device.type == "cuda",
        )
        if self.config.train.eval_at_start and self.fresh:
            self._evaluate()
        try:
            with loader:
                interrupted = self.stopping or self._steps(loader)
        except UserError:
            self.saver.collect()  # one that was on its way is still worth having
            raise
        if interrupted and self.progress.tokens < self.schedule.total_tokens:
            self._event("signal", f"{self._why_stopping()}: saving")
            self.saver.save_last(urgent=True)
            return EXIT_INTERRUPTED
        self._flush_interval()
        if self.skipping:
            raise self._ended_on_a_skip()
        self.saver.save_last(urgent=False)
        return EXIT_DONE

    def _told_to_stop(self) -> bool:
        """Whether this rank was, by a signal or because its time is over."""
        if self.watch is not None:
            self.watch.tick()
        over = self._ends_at is not None and time.monotonic() >= self._ends_at
        return over or self.signals.requested() is not None

    def _why_stopping(self) -> str:
        if self.signals.requested() is None and self.config.train.exit_after_minutes is not None:
            return f"{self.config.train.exit_after_minutes:g} minutes (train.exit_after_minutes)"
        return self.signals.requested() or "signal on another rank"

    def _ended_on_a_skip(self) -> GuardError:
        """What the user reads when the last update could not be applied: no success."""
        self.saver.collect()
        return GuardError(
            f"The run consumed its {self.progress.tokens} tokens, and its last step "
            f"({self.progress.step}) was skipped: the final model is not what the schedule asked "
            f"for, and was not saved. {self._way_out(self.progress.tokens)}"
        )

    def _way_out(self, stop: int) -> str:
        """What the user can do after skipped steps, the last of which ended at `stop` tokens."""
        after = self.guard.first_skip or stop
        began = max(0, after - self.schedule.segments[0].batch_tokens)
        if after > self.schedule.start_tokens:
            last = after >= self.schedule.total_tokens
            steps = self.schedule.total_steps if last else self.schedule.step_at_tokens(after)
            began = self.schedule.window(steps - 1)[0]
        sound = [
            str(saved.path)
            for saved in list_checkpoints(self.checkpointer.directory)
            if saved.tokens <= began
        ]
        return way_out(sound[-1] if sound else None, (began, stop))

    def _steps(self, loader: Loader) -> bool:
        """Run steps until the schedule ends; True as soon as any rank was told to stop."""
        for loaded in loader:
            segment = self.schedule.segment_at_step(loaded.step)
            if self.watch is not None:
                self.watch.tick()
            self._announce(loaded, segment)
            statistics = self._step(loaded, segment)
            loader.advance(loaded)
            self.stopping = statistics.signalled
            self._after_step(loaded, saving=statistics.saving, late=statistics.late)
            if self.stopping:
                return True
        return False

    def _step(self, loaded: LoadedStep, segment: Segment) -> StepStatistics:
        """Run one step and apply or skip its update."""
        began = time.perf_counter()
        parts, progress = self.parts, self.progress
        middle = (loaded.start + loaded.stop) / 2
        lr = parts.lr.at(middle) * segment.lr_scale
        weight_decay = parts.weight_decay.at(middle)
        balance, noise = parts.balance, self.config.log.noise_scale
        measured = _due(loaded.step + 1, (0, 0), noise.interval_steps, None)
        probed = _due(loaded.step + 1, (0, 0), self.config.log.weights_interval_steps, None)
        probe = parts.probe if probed else None
        if probe is not None:
            probe.begin()
        statistics, gradients = accumulate_gradients(
            parts.parallel,
            parts.mesh,
            parts.optimizer,
            loaded,
            batch_tokens=segment.batch_tokens,
            objective=parts.objective,
            balance=balance,
            signalled=self._told_to_stop,
            saving=self.checkpointer.in_flight and not self.checkpointer.finished,
            norms=parts.norms if measured else None,
            late=self.saver.late,
        )
        tokens = loaded.stop - loaded.start
        decision = self._verdict(loaded, statistics)
        if decision.action == "stop":
            self._event(decision.event_kind, decision.message(), **decision.fields())
            self.saver.collect()
            raise decision.error(progress.step, progress.tokens, self._way_out(loaded.stop))
        if decision.apply:
            if probe is not None:
                probe.before_update()
            parts.optimizer.step(
                gradients,
                lr=lr,
                weight_decay=weight_decay,
                grad_norm=statistics.grad_norm,
                clip=self.config.optimizer.grad_clip,
                batch_tokens=segment.batch_tokens,
            )
            if balance is not None:
                balance.update(
                    statistics.expert_counts, statistics.window_counts, loaded.start, loaded.stop
                )
            if parts.noise is not None and statistics.noise is not None:
                note = parts.noise.add(statistics.noise)
                if note is not None:
                    self._event("warning", note)
        elif balance is not None:
            balance.skip(loaded.start, loaded.stop)
        if probe is not None:
            probe.end()
        parts.optimizer.zero_grad()
        progress.step = loaded.step + 1
        progress.tokens = loaded.stop
        progress.samples += -(-tokens // segment.sequence_length)
        progress.token_hash = (progress.token_hash + statistics.token_hash) % 2**64
        self.skipping = not decision.apply and loaded.valid_targets > 0
        if self.skipping:
            self._event(decision.event_kind, decision.message(), **decision.fields())
        self.interval.add(
            self._result(
                statistics,
                segment,
                lr=lr,
                weight_decay=weight_decay,
                seconds=time.perf_counter() - began,
                tokens=tokens,
                skipped=not decision.apply,
            )
        )
        return statistics

    def _verdict(self, loaded: LoadedStep, statistics: StepStatistics) -> Decision:
        """Whether the step's update is applied; one without any target has none to apply."""
        if loaded.valid_targets == 0:
            self._event(
                "warning",
                f"step {loaded.step + 1} holds no target that counts: its {loaded.stop} - "
                f"{loaded.start} tokens are consumed without an update",
            )
            return Decision("skip")
        return self.guard.check(
            tokens=loaded.stop,
            batch_tokens=loaded.stop - loaded.start,
            loss=statistics.loss,
            grad_norm=statistics.grad_norm,
        )

    def _result(
        self,
        statistics: StepStatistics,
        segment: Segment,
        *,
        lr: float,
        weight_decay: float,
        seconds: float,
        tokens: int,
        skipped: bool,
    ) -> StepResult:
        moe = self.parts.balance is not None
        return StepResult(
            step=self.progress.step,
            tokens=self.progress.tokens,
            samples=self.progress.samples,
            batch_tokens=segment.batch_tokens,
            micro_batches=segment.micro_batches,
            sequence_length=segment.sequence_length,
            loss_sum=statistics.loss_sum,
            loss_tokens=statistics.loss_tokens,
            lr=lr,
            weight_decay=weight_decay,
            grad_norm=statistics.grad_norm,
            seconds=seconds,
            window_tokens=tokens,
            skipped=skipped,
            flops=float(tokens * self._flops[segment.sequence_length]),
            expert_counts=statistics.expert_counts.tolist() if moe else None,
            router_entropy_sum=statistics.router_entropy_sum if moe else None,
            extra={"aux_loss": statistics.aux_loss, "z_loss": statistics.z_loss} if moe else {},
        )

    def _after_step(self, loaded: LoadedStep, *, saving: bool, late: bool) -> None:
        """Whatever is due after the step that `loaded` was.

        Args:
            saving: whether any rank was writing a checkpoint when the step reduced its gradients.
            late: whether on any rank a checkpoint was due by its clock.
        """
        config, tokens = self.config, (loaded.start, loaded.stop)
        log, checkpoint = config.log, config.checkpoint
        if _due(self.progress.step, tokens, log.interval_steps, log.interval_tokens):
            self._flush_interval()
        ends = loaded.stop == self.schedule.total_tokens
        if self.stopping:
            if self.checkpointer.in_flight and not saving:
                self.saver.collect()
            return  # the loop ends here, with a checkpoint of its own
        if ends or _due(self.progress.step, tokens, None, config.train.eval_interval_tokens):
            self._evaluate()
        if self.checkpointer.in_flight and not saving:
            self.saver.collect()
        due = late or _due(
            self.progress.step, tokens, checkpoint.interval_steps, checkpoint.interval_tokens
        )
        if self.stopping or ends or not (due or self.postponed):
            return
        # While steps are skipped the weights may be beyond repair: neither saved, nor a reason to
        # delete older ones.
        self.postponed = self.skipping
        if not self.skipping:
            self.saver.save()

    def _announce(self, loaded: LoadedStep, segment: Segment) -> None:
        """Log the changes that begin with this step."""
        step = loaded.step
        if step > self.schedule.start_step and step == segment.first_step:
            before = self.schedule.segment_at_step(step - 1)
            cut = (
                "batch_tokens",
                "micro_batch_size",
                "micro_batches",
                "sequence_length",
                "lr_scale",
            )
            alike = all(getattr(before, key) == getattr(segment, key) for key in cut)
            self._flush_interval()  # no record straddles two batch sizes
            if alike:
                self._log_phases(loaded)
                return
            self._event(
                "batch_change",
                f"batch {before.batch_tokens} -> {segment.batch_tokens} tokens "
                f"({segment.micro_batches} micro-batches of {segment.micro_batch_size} x "
                f"{segment.sequence_length})",
                previous_batch_tokens=before.batch_tokens,
                batch_tokens=segment.batch_tokens,
                requested_batch_tokens=segment.requested_batch_tokens,
                requested_start_tokens=segment.requested_start_tokens,
                micro_batches=segment.micro_batches,
                sequence_length=segment.sequence_length,
                lr_scale=segment.lr_scale,
            )
        self._log_phases(loaded)

    def _log_phases(self, loaded: LoadedStep) -> None:
        """Log the data mixture and the phase of the learning rate that begin with this step."""
        step, parts = loaded.step, self.parts
        if step == 0:
            return
        start, _ = (
            self.schedule.window(step - 1) if step > self.schedule.start_step else (loaded.start, 0)
        )
        mixture = parts.stream.phase_at(loaded.start)
        if mixture != parts.stream.phase_at(start):
            self._event(
                "phase_change",
                f"data phase {mixture}: {dict(parts.stream.spec.phases[mixture].weights)}",
                phase=mixture,
                mixture=dict(parts.stream.spec.phases[mixture].weights),
            )
            self.guard.reset_window()
        phase = parts.lr.phase(loaded.start)
        if phase != parts.lr.phase(start):
            self._event("lr_phase", f"learning rate: {phase}", phase=phase)

    def _flush_interval(self) -> None:
        if self.interval.steps and self.interval.last is not None:
            record = self.interval.record()
            record["token_hash"] = f"{self.progress.token_hash:016x}"
            if self.parts.probe is not None:
                record |= self.parts.probe.record()
            if self.parts.noise is not None:
                record |= self.parts.noise.record(
                    batch_tokens=record["batch_tokens"],
                    sequence_length=record["sequence_length"],
                    beta1=scaled_beta(self.config.optimizer.beta1, self.config),
                )
            if self.reporter is not None:
                self.reporter.interval(record)

    def _evaluate(self) -> None:
        data = self.config.data
        for name, held_out in self.parts.validation.items():
            began = time.perf_counter()
            result = evaluate(
                self.parts.parallel,
                self.parts.mesh,
                held_out,
                micro_batch_size=self.config.train.largest_micro_batch,
                mask_documents=data.mask_documents,
                stopped=self._told_to_stop,
            )
            if result is None:
                self.stopping = True
                return
            self._event(
                "evaluation",
                f"validation on {name}: loss {result.loss:.4f}",
                source=name,
                loss=result.loss,
                loss_sum=result.loss_sum,
                loss_tokens=result.loss_tokens,
                sequence_length=held_out.sequence_length,
                seconds=time.perf_counter() - began,
            )

    def _event(self, kind: str, message: str, **fields: Any) -> None:
        if self.reporter is not None:
            self.reporter.event(
                kind,
                step=self.progress.step,
                tokens=self.progress.tokens,
                message=message,
                **fields,
            )


def _due(
    step: int, tokens: tuple[int, int], interval_steps: int | None, interval_tokens: int | None
) -> bool:
    """Whether something with an interval in steps or tokens is due after a step.

    Args:
        step: finished steps.
        tokens: consumed tokens before and after the step.
    """
    if interval_tokens is not None:
        return tokens[1] // interval_tokens > tokens[0] // interval_tokens
    return interval_steps is not None and step % interval_steps == 0
