"""Send a run's records to TensorBoard or Weights & Biases: the same numbers as the log.

Both are extras. Each scalar appears under its key with the step on the axis, and once more as
`KEY vs tokens` with consumed tokens on the axis (in TensorBoard as a run `vs-tokens` of its own,
since what a restart takes back is told by the axis); events are marks under `events/`, and losses
of validation under `validation/`; a list (one value per MoE layer) becomes one scalar per entry,
`KEY/layer_03`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from megascale.errors import ConfigError
from megascale.extras import is_installed, pip_command


class Sink(Protocol):
    """Where records go besides the log."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Send one metrics record."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Send one event of `events.jsonl`."""

    def take_over(self, step: int, tokens: int) -> None:
        """What was sent beyond these finished steps and consumed tokens counts no more."""

    def close(self) -> None:
        """Send what is still buffered and let go."""


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The finite numbers of a record by tag; its axes (step, tokens) are not among them."""
    for key, value in record.items():
        if key in ("step", "tokens") or isinstance(value, bool):
            continue
        if isinstance(value, (int, float)):
            yield key, value
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                if isinstance(item, (int, float)):
                    yield f"{key}/layer_{index:02d}", item


SHOWN_KINDS = ("evaluation", "skip", "spike", "batch_change", "checkpoint", "rewind")
"""Kinds of events that dashboards show."""


def event_scalars(event: Mapping[str, Any]) -> dict[str, float]:
    """An event as numbers by tag: a validation's loss, a new batch, else a mark at its step."""
    kind = event["kind"]
    if kind == "evaluation":
        return {f"validation/{event['source']}": event["loss"]}
    if kind == "batch_change":
        return {"events/batch_change": event["batch_tokens"]}
    return {f"events/{kind}": 1.0}


def require_tensorboard() -> None:
    """Check, without importing it, that TensorBoard can be written.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    if not is_installed("tensorboard"):
        rule = f"TensorBoard is not installed; {pip_command('tensorboard')}"
        raise ConfigError.of("log.tensorboard", True, rule, False)


def require_wandb(project: str) -> None:
    """Check, without importing it, that W&B can be logged to.

    Raises:
        ConfigError: W&B is not installed.
    """
    if not is_installed("wandb"):
        rule = f"W&B is not installed; {pip_command('wandb')}"
        raise ConfigError.of("log.wandb", project, rule, "null")


class TensorBoardSink:
    """Writes event files that TensorBoard reads."""

    def __init__(self, directory: str | Path) -> None:
        """Args:
            directory: folder of the event files; made if missing.

        Raises:
            ConfigError: TensorBoard is not installed.
        """
        require_tensorboard()
        self._folders = (Path(directory), Path(directory) / "vs-tokens")
        self._open()

    def _open(self) -> None:
        from tensorboard.summary import Writer

        self._by_step, self._by_tokens = (Writer(str(folder)) for folder in self._folders)

    def log(self, record: Mapping[str, Any]) -> None:
        self._write(scalars(record), record["step"], record["tokens"])

    def event(self, event: Mapping[str, Any]) -> None:
        if event["kind"] in SHOWN_KINDS:
            self._write(event_scalars(event).items(), event["step"], event["tokens"])

    def _write(self, values: Iterable[tuple[str, float]], step: int, tokens: int) -> None:
        for tag, value in values:
            self._by_step.add_scalar(tag, value, step)
            self._by_tokens.add_scalar(f"{tag} vs tokens", value, tokens)
        self._by_step.flush()
        self._by_tokens.flush()

    def take_over(self, step: int, tokens: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.close()
        started = SessionLog(status=SessionLog.START)
        for folder, reached in zip(self._folders, (step, tokens), strict=True):
            file = EventFileWriter(str(folder))  # readers drop what lies at or beyond its step
            file.add_event(Event(wall_time=time.time(), step=reached + 1, session_log=started))
            file.close()
        self._open()

    def close(self) -> None:
        self._by_step.close()
        self._by_tokens.close()


class WandbSink:
    """Logs to a Weights & Biases run, online or offline."""

    def __init__(
        self,
        directory: str | Path,
        *,
        project: str,
        name: str,
        config: Mapping[str, Any],
        entity: str | None = None,
        group: str | None = None,
        mode: Literal["online", "offline", "disabled"] = "online",
    ) -> None:
        """Args:
            directory: the run directory; W&B keeps its files below it.
            project, entity, group: where the run appears.
            name: the run's name. Its identity, by which it is resumed, is drawn at the first
                start and kept in the run directory: two runs of one name are two runs.
            config: the resolved config, shown with the run.
            mode: "online", "offline" (upload later with `wandb sync`) or "disabled".

        Raises:
            ConfigError: W&B is not installed.
        """
        require_wandb(project)
        import wandb

        self._run = wandb.init(
            project=project,
            entity=entity,
            group=group,
            name=name,
            id=_wandb_id(Path(directory)),
            resume="allow",
            config=dict(config),
            dir=str(directory),
            mode=mode,
        )
        self._run.define_metric("tokens")
        self._on_tokens: set[str] = set()

    def log(self, record: Mapping[str, Any]) -> None:
        self._log(scalars(record), record["step"], record["tokens"])

    def event(self, event: Mapping[str, Any]) -> None:
        if event["kind"] in SHOWN_KINDS:
            self._log(event_scalars(event).items(), event["step"], event["tokens"])

    def _log(self, numbers: Iterable[tuple[str, float]], step: int, tokens: int) -> None:
        values: dict[str, float] = {"tokens": tokens}
        for tag, value in numbers:
            twin = f"{tag} vs tokens"
            if twin not in self._on_tokens:  # W&B takes no pattern that ends in a fixed text
                self._run.define_metric(twin, step_metric="tokens")
                self._on_tokens.add(twin)
            values[tag] = values[twin] = value
        self._run.log(values, step=step)

    def take_over(self, step: int, tokens: int) -> None:
        """W&B keeps what it got first for a step."""

    def close(self) -> None:
        self._run.finish()


WANDB_ID_FILE = "wandb-id"


def _wandb_id(directory: Path) -> str:
    file = directory / WANDB_ID_FILE
    if not file.is_file():
        file.write_text(f"{uuid.uuid4().hex[:16]}\n")
    return file.read_text().strip()
