"""Names, options and help of everything on the axes can be read before torch, which takes seconds to import."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap

import pytest

HEAVY = {"torch", "timm", "art", "torchattacks", "scipy", "pandas", "matplotlib", "optuna"}
IMPORTS = (
    "toolkit_ext",
    "toolkit_ext.batch",
    "toolkit_ext.types",
    "toolkit_ext.trainers.methods",
    "toolkit_ext.trainers.config",
    "toolkit_ext.trainers.compose",
    "toolkit_ext.attacks",
    "toolkit_ext.objectives",
    "toolkit_ext.updates",
    "toolkit_ext.schedules",
)
READ_ALL = """
    from dataclasses import fields
    from typing import get_type_hints
    from toolkit_ext.trainers.compose import AXES, compose, options
    from toolkit_ext.trainers.config import LoopConfig
    from toolkit_ext.trainers.methods import METHODS

    for kind in [LoopConfig, *(kind for kinds in AXES.values() for kind in kinds.values())]:
        hints = get_type_hints(kind)
        assert all(entry.metadata["help"] and name in hints for name, entry in options(kind).items())
        kind(**{entry.name: entry.default for entry in fields(kind) if entry.init})
    for method in METHODS.values():
        assert compose(method, {}).hyper_parameters()
"""


def loaded_by(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has imported after ``code``."""
    code = textwrap.dedent(code) + "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stdout.split())


@pytest.mark.parametrize("module", IMPORTS)
def test_importing_is_light(module: str) -> None:
    assert loaded_by(f"import {module}") == set()


def test_reading_every_option_and_composing_every_method_is_light() -> None:
    assert loaded_by(READ_ALL) == set()


READ_HELP = """
    from click.testing import CliRunner
    from toolkit_ext.cli import COMMANDS, cli

    alone = [["--help"], ["--version"], ["methods"], ["train", "pgd", "--help"]]
    for words in [*alone, *([name, "--help"] for name in COMMANDS)]:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0 and done.output, done
"""


def test_help_of_every_command_and_the_table_of_methods_are_light() -> None:
    assert loaded_by(READ_HELP) == set()


COMPLETE = """
    import os, sys
    os.environ |= {"_TOOLKIT_EXT_COMPLETE": "bash_complete", "COMP_WORDS": "toolkit-ext train --eps", "COMP_CWORD": "2"}
    sys.argv = ["toolkit-ext"]
    from toolkit_ext.cli import main
    try:
        main()
    except SystemExit:
        pass
"""


def test_completing_an_option_is_light() -> None:
    assert loaded_by(COMPLETE) == set()


LATE = [
    ("toolkit_ext.updates", "AMP"),
    ("toolkit_ext.updates", "AWP"),
    ("toolkit_ext.updates", "DualOptimizer"),
    ("toolkit_ext.updates", "hold_running_statistics"),
    ("toolkit_ext.attacks.layerwise", "Hidden"),
    ("toolkit_ext.attacks.layerwise", "choose"),
    ("toolkit_ext.attacks.layerwise", "cross_entropy"),
]


ASK_FOR_ALL = """
    import importlib, sys

    class Asked(Exception):
        pass

    class NoTorch:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                raise Asked

    sys.meta_path.insert(0, NoTorch())
    for package, name in LATE:
        module = importlib.import_module(package)
        try:
            getattr(module, name)
        except Asked:
            continue
        sys.exit(f"{package}.{name} did not ask for torch")
"""


def test_names_that_need_torch_ask_for_it() -> None:
    """One interpreter asks for all of them, and stops each time before torch is read, which would take seconds."""
    assert loaded_by(f"LATE = {LATE}\n" + textwrap.dedent(ASK_FOR_ALL)) == set()


@pytest.mark.parametrize(("package", "name"), LATE)
def test_names_that_need_torch_come_with_it(package: str, name: str) -> None:
    assert getattr(importlib.import_module(package), name).__name__ == name


@pytest.mark.parametrize("package", ["toolkit_ext.updates", "toolkit_ext.attacks.layerwise"])
def test_an_unknown_name_is_an_ordinary_error_and_all_names_exist(package: str) -> None:
    module = __import__(package, fromlist=["__all__"])
    assert all(hasattr(module, name) for name in module.__all__)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'Lamp'"):
        _ = module.Lamp
