"""What each algorithm brings to a job: its optimizer, and the check that its budget holds a whole search."""

from promptjobs.core import limits, mipro_limits
from promptjobs.core.config import GepaJobConfig, JobConfig, MiproJobConfig
from promptjobs.core.gepa import Gepa
from promptjobs.core.mipro import Mipro
from promptjobs.core.optimizer import Optimizer


def optimizer_of(config: JobConfig) -> Optimizer:
    match config:
        case GepaJobConfig():
            return Gepa(config)
        case MiproJobConfig():
            return Mipro(config)
        case _:
            raise TypeError(f"no optimizer for {config.algorithm!r}")


def check_budget(config: JobConfig) -> None:
    """Raises BudgetTooSmall or BudgetExceededError for a budget that cannot hold a whole search."""
    match config:
        case GepaJobConfig():
            limits.check_budget(config)
        case MiproJobConfig():
            mipro_limits.check_budget(config)
        case _:
            raise TypeError(f"no budget for {config.algorithm!r}")
