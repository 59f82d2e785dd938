"""The batches and learning rate of a config, as a law of whole schedules takes them."""

from __future__ import annotations

from megascale.config.schedules import (
    batch_schedule_from_config,
    lr_schedule_from_config,
    weight_decay_from_config,
)
from megascale.config.sections import RunConfig
from megascale.model.count import count_parameters
from megascale.propose.schedule_plan import SchedulePlan


def plan_of_config(config: RunConfig) -> SchedulePlan:
    """The batches, learning rate, weight decay and size of a config, on one process.

    The layout does not matter to the loss; sizes are those that one rank would run.

    Raises:
        ConfigError, ScheduleError: the schedule cannot be laid out.
    """
    return SchedulePlan.of_schedule(
        batch_schedule_from_config(config, 1),
        lr_schedule_from_config(config),
        coupling=config.batch.lr_coupling,
        weight_decay=weight_decay_from_config(config).at(0),
        n_params=float(count_parameters(config.model).total),
    )
