"""Long runs of claims, ranked: which are done, what the others cost, and the driver that runs them one by one."""

from toolkit_ext.programme.command import programme
from toolkit_ext.programme.plan import Entry

__all__ = ["Entry", "programme"]
