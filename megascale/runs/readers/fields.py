"""What other tools call the columns of the one table: tags, keys and headers."""

from __future__ import annotations

from collections.abc import Collection, Iterator

NAMES: dict[str, tuple[str, ...]] = {
    "step": (
        *("step", "iteration", "iter", "global_step", "train/global_step", "trainer/global_step"),
        *("iterations", "steps", "current_steps", "_step"),
    ),
    "tokens": (
        *("tokens", "consumed_tokens", "consumed tokens", "consumed-tokens", "n_tokens_seen"),
        *("throughput/total tokens", "optim/total_tokens", "num_input_tokens_seen"),
        *("train/num_input_tokens_seen", "total_tokens", "train/tokens", "tokens_seen"),
    ),
    "samples": (
        *("samples", "consumed_samples", "consumed samples", "consumed-samples"),
        *("samples_count", "train/samples"),
    ),
    "batch_tokens": (
        *("batch_tokens", "global_batch_tokens", "train/global batch size"),
        "batch_size_tokens",
    ),
    "batch_samples": (
        *("batch_samples", "batch-size", "batch size", "global_batch_size"),
        *("global batch size", "train_batch_size"),
    ),
    "lr": (
        *("lr", "learning_rate", "learning-rate", "learning rate", "train/learning_rate"),
        *("train/lr", "optim/lr", "optim/LR (group 0)", "optim/LR", "lr/AdamW", "lr/AdamW/0"),
        *("train_lr", "lr-AdamW"),
    ),
    "loss": (
        *("loss", "train/loss", "train_loss", "lm loss", "lm-loss", "lm_loss"),
        *("loss_metrics/global_avg_loss", "train/CE loss", "loss/out", "training_loss"),
        *("reduced_train_loss", "train/lm loss", "training/loss", "train/train_loss"),
        *("train_loss_step", "train/loss_step", "loss_step"),
    ),
    "validation": (
        *("val_loss", "val/loss", "eval_loss", "eval/loss", "validation_loss", "valid_loss"),
        *("validation_metrics/loss", "lm loss validation", "validation/loss", "valid/loss"),
        *("val/val_loss", "lm-loss-validation/lm loss validation"),
    ),
    "grad_norm": (
        *("grad_norm", "grad-norm", "grad norm", "train/grad_norm", "optim/grad_norm"),
        *("optim/total grad norm", "gradient_norm", "train/grad norm"),
    ),
    "seconds": ("seconds",),
    "runtime": ("runtime", "_runtime", "elapsed_seconds"),
    "run": ("run", "run_id", "run_name"),
}
"""Our name -> theirs, the most telling first. `validation` is a loss of that kind, `runtime`
the wall clock since the run began, in seconds."""

_EVALUATED = ("eval", "val", "final_val", "final-val", "lm loss validation-")


def find(ours: str, present: Collection[str]) -> str | None:
    """Which of the present names is our column `ours`; None if none is known to be."""
    for name in NAMES[ours]:
        if name in present:
            return name
    folded = {_folded(name): name for name in present}
    for name in NAMES[ours]:
        if _folded(name) in folded:
            return folded[_folded(name)]
    return None


def validations(present: Collection[str]) -> Iterator[tuple[str, str]]:
    """Every present name that is a validation loss, with the name of its set ("" for the one)."""
    main = find("validation", present)
    if main is not None:
        yield main, ""
    for name in present:
        lowered = name.lower()
        begins = lowered.startswith(_EVALUATED)
        ends = lowered.endswith(("loss", "ce loss")) or "validation-" in lowered
        if name != main and begins and ends and "vs samples" not in lowered:
            yield name, name


def _folded(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")
