"""Adversarial training methods as ART-compatible trainers for timm backbones, every result from AutoAttack.

Importing the package registers its backbones with timm, so that ``timm.create_model("lenet", width=16)`` works.
"""

from importlib.metadata import PackageNotFoundError, version

from toolkit_ext import backbones
from toolkit_ext.errors import UserError

try:
    __version__ = version("toolkit-ext")
except PackageNotFoundError:  # used from a source folder without installation
    __version__ = "0+unknown"

__all__ = ["UserError", "__version__", "backbones"]
