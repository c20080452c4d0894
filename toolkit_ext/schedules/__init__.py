"""The schedule axis: epsilon and learning rate as closed forms of the position in training."""

from toolkit_ext.schedules.epsilon import Constant, Periodic, Warmup
from toolkit_ext.schedules.learning_rate import LR_SCHEDULES, LearningRate, lr_scheduler
from toolkit_ext.types import Schedule

SCHEDULES: dict[str, type[Schedule]] = {"constant": Constant, "warmup": Warmup, "periodic": Periodic}

__all__ = ["LR_SCHEDULES", "SCHEDULES", "Constant", "LearningRate", "Periodic", "Warmup", "lr_scheduler"]
