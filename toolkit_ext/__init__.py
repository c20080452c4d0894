"""Adversarial training methods as ART-compatible trainers for timm backbones, every result from AutoAttack.

Importing the package registers its backbones with timm, so that ``timm.create_model("lenet", width=16)`` works. Where
timm is not imported yet, this waits until it is: options, records and help can be read without timm and torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from toolkit_ext.errors import UserError

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from toolkit_ext import backbones

try:
    __version__ = version("toolkit-ext")
except PackageNotFoundError:  # used from a source folder without installation
    __version__ = "0+unknown"

__all__ = ["UserError", "__version__", "backbones"]


class _RegisterWithTimm(MetaPathFinder):
    """Imports our backbones right after timm, once."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "timm":
            return None
        sys.meta_path.remove(self)
        spec = find_spec("timm")
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            import_module("toolkit_ext.backbones")

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if not TYPE_CHECKING:  # a type checker would take every name for one of this package's

    def __getattr__(name: str) -> Any:
        if name == "backbones":
            return import_module("toolkit_ext.backbones")
        raise AttributeError(f"module 'toolkit_ext' has no attribute {name!r}")


if "timm" in sys.modules:
    import_module("toolkit_ext.backbones")
else:
    sys.meta_path.insert(0, _RegisterWithTimm())
