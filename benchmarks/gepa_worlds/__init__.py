"""Worlds in which prompt optimizers are compared: tasks with simulated models, all pure functions, and runners."""

from .bakery import NOISY
from .driving import Run, run_ours
from .harbour import LABEL_TASK
from .museum import CONVENTIONS
from .reference import run_reference
from .tickets import TICKETS
from .worlds import Task, score, template_of

TASKS: dict[str, Task] = {task.name: task for task in (CONVENTIONS, LABEL_TASK, NOISY, TICKETS)}

__all__ = ["TASKS", "Run", "Task", "run_ours", "run_reference", "score", "template_of"]
