"""What else held in the runs that a law was fitted to."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SMALLEST, LARGEST = 1e-100, 1e100
"""Bounds of the size of every number in a law file."""


class Part(BaseModel):
    """Base of everything in a law file: no unknown keys, no change, finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _numbers_are_bounded(self) -> Self:
        for name in type(self).model_fields:
            check_size(name, getattr(self, name))
        return self


def check_size(name: str, value: object) -> None:
    """Refuse a number so large or small that arithmetic with it overflows; lists are looked into.

    Raises:
        ValueError: naming the field.
    """
    if isinstance(value, (list, tuple)):
        for item in value:
            check_size(name, item)
    elif isinstance(value, float) and value != 0 and not SMALLEST <= abs(value) <= LARGEST:
        raise ValueError(f"{name} = {value:.4g}: numbers lie between {SMALLEST} and {LARGEST}")


class Conditions(Part):
    """What else held in the runs that were fitted, as far as it is known.

    A law of the batch is one at its learning rate, and the other way round; use outside is warned
    of, never refused.
    """

    peak_lr: tuple[float, float] | None = Field(None, description="smallest and largest peak LR")
    batch_tokens: tuple[float, float] | None = Field(None, description="global batches, tokens")
    weight_decay: tuple[float, float] | None = Field(None, description="smallest and largest")
    lr_schedule: str = Field("", description="such as constant, wsd or cosine")
    optimizer: str = ""
    architecture: str = ""
    data: str = ""

    def outside(
        self,
        *,
        peak_lr: float | None = None,
        batch_tokens: float | None = None,
        weight_decay: float | None = None,
        lr_schedule: str | None = None,
    ) -> list[str]:
        """In words, where a run's settings are not those of the runs that were fitted."""
        said = []
        checks = (
            ("peak LR", peak_lr, self.peak_lr),
            ("batch", batch_tokens, self.batch_tokens),
            ("weight decay", weight_decay, self.weight_decay),
        )
        for name, value, limits in checks:
            if value is None or limits is None:
                continue
            if not limits[0] * (1 - 1e-9) <= value <= limits[1] * (1 + 1e-9):
                fitted = f"{limits[0]:.4g}"
                fitted += f" to {limits[1]:.4g}" if limits[1] > limits[0] else ""
                said.append(f"{name} = {value:.4g}; the law was fitted at {fitted}")
        schedules = {"constant": ("constant", "wsd"), "wsd": ("wsd",), "cosine": ("cosine",)}
        alike = schedules.get(self.lr_schedule, (self.lr_schedule,))
        if lr_schedule is not None and self.lr_schedule and lr_schedule not in alike:
            said.append(f"LR schedule {lr_schedule}; the law was fitted under {self.lr_schedule}")
        return said
