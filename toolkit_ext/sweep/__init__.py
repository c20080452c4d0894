"""Many runs into one results folder: what is recorded is skipped, what was stopped goes on, what fails is named."""

from toolkit_ext.sweep.engine import Workers, sweep
from toolkit_ext.sweep.run import LOG, Outcome, Task, attempt, state_of

__all__ = ["LOG", "Outcome", "Task", "Workers", "attempt", "state_of", "sweep"]
