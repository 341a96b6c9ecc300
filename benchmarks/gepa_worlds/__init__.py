"""Worlds in which prompt optimizers are compared: tasks with simulated models, all pure functions, and runners.

This module and what it imports need the standard library and the core's prompts alone, so that a peer's environment can
load the tasks. The runners (driving, reference, wall) are imported by their own names.
"""

from .bakery import NOISY
from .harbour import LABEL_TASK
from .museum import CONVENTIONS
from .tickets import TICKETS
from .worlds import Task, score, template_of

TASKS: dict[str, Task] = {task.name: task for task in (CONVENTIONS, LABEL_TASK, NOISY, TICKETS)}

__all__ = ["TASKS", "Task", "score", "template_of"]
