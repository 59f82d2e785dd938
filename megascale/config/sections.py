"""The whole configuration of a run: `RunConfig` and its sections."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, field_validator, model_validator

from megascale.config.data_sections import DataConfig
from megascale.config.fields import (
    Count,
    NonNegativeFloat,
    PositiveCount,
    PositiveFloat,
    Section,
    message_as_is,
)
from megascale.config.init_section import InitConfig
from megascale.config.optimizer_sections import OptimizerConfig
from megascale.config.schedule_sections import BatchConfig, LRConfig, WeightDecayConfig
from megascale.errors import UserError
from megascale.model.config import ModelConfig

Degree = Annotated[int, Field(ge=1)]


class TrainConfig(Section):
    """Budget, shapes and numerics of training."""

    total_tokens: PositiveCount = Field(
        description="tokens the run consumes; it ends at exactly this count"
    )
    sequence_length: PositiveCount = Field(description="tokens in one sequence")
    micro_batch_size: PositiveCount = Field(
        1, description="sequences in one forward and backward pass of one data-parallel rank"
    )
    max_micro_batch_size: PositiveCount | None = Field(
        None,
        description="join the micro-batches of a step up to this many sequences in one pass, where "
        "the batch allows: fewer and larger passes, to the same gradient, for models so small that "
        "each pass costs the same; null runs them one by one",
    )
    eval_interval_tokens: PositiveCount | None = Field(
        None,
        description="tokens between two evaluations of data.validation; null for one at the end. "
        "The final model is always evaluated",
    )
    eval_at_start: bool = Field(
        False, description="also evaluate before the first step of a new run or branch"
    )
    eval_tokens: PositiveCount | None = Field(
        None,
        description="tokens of each held-out source read at an evaluation, rounded down to whole "
        "sequences; null for 1M, or all where a source holds less",
    )
    eval_sequence_length: PositiveCount | None = Field(
        None,
        description="tokens in one sequence of evaluations; null takes sequence_length. Runs of "
        "several sequence lengths are comparable with one of their own",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16 computes in bfloat16 over fp32 master weights and reductions"
    )
    moe_router_dtype: Literal["precision", "fp32"] = Field(
        "precision",
        description="what the router of MoE layers computes its logits in: precision follows "
        "train.precision, as transformers does; fp32 rounds no logit, so that no token is routed "
        "otherwise for bf16's sake",
    )
    compile: Literal["off", "blocks"] = Field(
        "off", description="blocks compiles each decoder layer with torch.compile"
    )
    activation_checkpointing: Annotated[str, Field(pattern=r"^(off|blocks|every_[1-9][0-9]*)$")] = (
        Field(
            "off",
            description="recompute activations in the backward pass: off, blocks (every decoder "
            "layer) or every_N (each N-th layer)",
        )
    )
    matmul_library: Literal["auto", "torch", "onednn"] = Field(
        "auto",
        description="what multiplies large fp32 matrices on a CPU: torch (MKL on x86), onednn, or "
        "auto for the faster of the two, measured once on a CPU and kept by the run",
    )
    expert_kernel: Literal["auto", "loop", "grouped"] = Field(
        "auto",
        description="how the routed experts of an MoE layer are computed: loop (one product an "
        "expert), grouped (torch's grouped_mm), or auto: measured once on a CPU and kept by the "
        "run, grouped in bf16 on a GPU",
    )
    initial_weights: str | None = Field(
        None,
        description="hub folder (config.json and safetensors) that a new run takes its weights "
        "from; null draws them from the seed",
    )
    exit_after_minutes: PositiveFloat | None = Field(
        None,
        description="minutes after which this process writes a checkpoint and ends with exit code "
        "75, as for a signal; starting again goes on. null for never",
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None,
        description="CPU threads of each process; null takes OMP_NUM_THREADS, else a share of "
        "SLURM_CPUS_PER_TASK or of the node's cores",
    )

    @property
    def largest_micro_batch(self) -> int:
        """Sequences in the largest pass that may be run."""
        return max(self.micro_batch_size, self.max_micro_batch_size or 0)


class ParallelConfig(Section):
    """Degrees of parallelism; tensor x data is the number of processes."""

    tensor: Degree = Field(1, description="tensor-parallel degree")
    data: Annotated[int, Field(ge=-1)] = Field(
        -1, description="data-parallel degree; -1 takes all processes that tensor leaves"
    )
    expert: Degree = Field(
        1, description="expert-parallel degree, a divisor of the data-parallel degree"
    )
    data_mode: Literal["ddp", "fsdp", "hsdp"] = Field(
        "ddp",
        description="ddp replicates parameters, fsdp shards them, hsdp shards inside each replica",
    )
    fsdp_gather: Literal["step", "block"] = Field(
        "step",
        description="modes fsdp and hsdp: step gathers whole parameters once a step and keeps them "
        "until its last backward; block frees each layer after its forward and its backward, for "
        "less memory and more communication",
    )
    hsdp_replicate: Degree = Field(1, description="replicas of the sharded model (data_mode hsdp)")
    sequence_parallel: bool = Field(
        False, description="split norms and residuals over the tensor-parallel ranks along tokens"
    )
    timeout_minutes: PositiveFloat = Field(
        30.0,
        description="minutes a rank waits for the others in a collective before it gives the run "
        "up, with exit code 69; longer than the slowest step, evaluation pass and checkpoint",
    )
    stalled_seconds: PositiveFloat = Field(
        120.0,
        description="seconds without a finished step after which one rank tells which ranks the "
        "others wait for, and on which hosts",
    )
    backend: Literal["auto", "nccl", "gloo"] = Field(
        "auto", description="auto takes nccl where every process has a GPU, else gloo"
    )


class MoEBalanceConfig(Section):
    """How an MoE model's experts are kept in balance during training."""

    aux_loss_coef: NonNegativeFloat = Field(
        0.001, description="weight of the balance loss; a balanced router has balance loss 1"
    )
    window_tokens: PositiveCount | None = Field(
        None,
        description="tokens over which one balance loss is computed, whatever the micro-batch; "
        "null takes one sequence",
    )
    window_loads: Literal["own", "trailing"] = Field(
        "own",
        description="own: a window's balance loss uses its own loads of experts, and windows "
        "divide every micro-batch; trailing: it uses the loads of the window before the last, and "
        "no batch is longer than a window",
    )
    z_loss_coef: NonNegativeFloat = Field(
        0.0, description="weight of the mean squared log-sum-exp of the router's logits"
    )
    bias_update_per_million_tokens: NonNegativeFloat = Field(
        0.0,
        description="how far the expert bias moves per million consumed tokens (model.expert_bias)",
    )


def _tokens_replace_steps(data: Any) -> Any:
    if isinstance(data, dict) and data.get("interval_tokens") is not None:
        return {"interval_steps": None} | data
    return data


class WandbConfig(Section):
    """Weights & Biases, where the extra is installed."""

    project: str = Field(description="project name")
    entity: str | None = Field(None, description="team or user; null takes the account's default")
    group: str | None = Field(None, description="group of runs; null for none")
    mode: Literal["online", "offline"] = Field("online", description="offline keeps files only")


class NoiseScaleConfig(Section):
    """The gradient noise scale, from the micro-batch gradients that a step computes anyway."""

    interval_steps: PositiveCount | None = Field(
        16,
        description="steps between two measurements of the gradient noise scale; null does not "
        "measure it. A measured step of one micro-batch on one rank runs it as two halves",
    )
    window: Annotated[int, Field(ge=10, le=10_000)] = Field(
        64, description="measurements that the noise scale and its interval are taken over"
    )


class LogConfig(Section):
    """What is logged, and how often."""

    interval_tokens: PositiveCount | None = Field(
        None, description="tokens between two records of metrics.jsonl"
    )
    interval_steps: PositiveCount | None = Field(
        1, description="steps between two records, instead of interval_tokens"
    )
    weights_interval_steps: PositiveCount | None = Field(
        None,
        description="steps between two measurements of the RMS of weights and of updates by kind "
        "of parameter, and of the largest attention logit; null does not measure them",
    )
    noise_scale: NoiseScaleConfig = Field(
        default_factory=NoiseScaleConfig, description="gradient noise scale"
    )
    tensorboard: bool = Field(False, description="write TensorBoard events into the run directory")
    wandb: WandbConfig | None = Field(None, description="log to Weights & Biases; null for no")
    console: Literal["auto", "rich", "plain", "off"] = Field(
        "auto", description="auto draws a progress bar on a terminal and prints lines elsewhere"
    )

    @model_validator(mode="before")
    @classmethod
    def _tokens_replace_steps(cls, data: Any) -> Any:
        return _tokens_replace_steps(data)


class CheckpointConfig(Section):
    """When checkpoints are written and which are kept; the last step always writes one."""

    interval_tokens: PositiveCount | None = Field(
        None, description="tokens between two checkpoints"
    )
    interval_steps: PositiveCount | None = Field(
        1000,
        description="steps between two checkpoints, instead of interval_tokens; both null write "
        "one at the end only",
    )
    interval_minutes: PositiveFloat | None = Field(
        None,
        description="minutes by the clock after which a checkpoint is due as well, whatever the "
        "steps and tokens; null for never",
    )
    full_disk_minutes: NonNegativeFloat = Field(
        10.0,
        description="minutes the last checkpoint of a run waits for room on a full disk before "
        "older checkpoints are given up, oldest first",
    )
    keep_last: PositiveCount = Field(3, description="newest checkpoints kept")
    keep_every_tokens: PositiveCount | None = Field(
        None, description="keep for ever the first checkpoint of each span of this many tokens"
    )
    async_save: bool = Field(False, description="write in the background while training goes on")

    @model_validator(mode="before")
    @classmethod
    def _tokens_replace_steps(cls, data: Any) -> Any:
        return _tokens_replace_steps(data)


class GuardConfig(Section):
    """What happens on a non-finite loss or gradient, and on a loss spike."""

    nonfinite_budget: Count = Field(
        3, description="steps with a non-finite loss or gradient skipped per window before stopping"
    )
    spike_factor: Annotated[float, Field(gt=1)] | None = Field(
        None,
        description="a loss this many robust standard deviations (of a batch of its size) above "
        "the window's median is a spike and its step is skipped, and so is one whose gradient "
        "norm exceeds ten times the median; null does not look for spikes",
    )
    spike_budget: Count = Field(3, description="spikes skipped per window before stopping")
    window_tokens: PositiveCount | None = Field(
        None, description="tokens the budgets and the median reach back over; null: 1 % of the run"
    )


class RunConfig(Section):
    """Everything a run depends on besides the data files themselves."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        "run", description="name of the run and of its directory under output_dir"
    )
    seed: Count = Field(0, description="seed of the weights and, unless data.seed is set, the data")
    output_dir: Annotated[str, Field(min_length=1)] = Field(
        "runs", description="directory that run directories are made in"
    )
    model: ModelConfig = Field(
        description="shape of the model, under the key names of the hub's config.json; `preset: "
        "FILE` starts from a file of such keys"
    )
    init: InitConfig = Field(
        default_factory=InitConfig, description="initial weights, and what follows the model's size"
    )
    data: DataConfig = Field(description="token sources and mixtures")
    train: TrainConfig = Field(description="budget, shapes and numerics")
    batch: BatchConfig = Field(description="global batch size over consumed tokens")
    lr: LRConfig = Field(description="learning rate over consumed tokens")
    weight_decay: WeightDecayConfig = Field(
        default_factory=WeightDecayConfig, description="weight decay over consumed tokens"
    )
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="optimizer")
    parallel: ParallelConfig = Field(
        default_factory=ParallelConfig, description="degrees of parallelism"
    )
    moe_balance: MoEBalanceConfig = Field(
        default_factory=MoEBalanceConfig, description="expert balance (MoE models)"
    )
    log: LogConfig = Field(default_factory=LogConfig, description="logging")
    checkpoint: CheckpointConfig = Field(
        default_factory=CheckpointConfig, description="checkpoints"
    )
    guard: GuardConfig = Field(default_factory=GuardConfig, description="faults in the loss")

    @field_validator("model", mode="wrap")
    @classmethod
    def _model_rules_are_ours(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except UserError as error:
            raise message_as_is(error) from None

    def digest(self) -> str:
        """SHA-256 of the canonical JSON of the resolved config: equal digests, equal configs."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
