"""Judge one mutant: its tests in a process forked from one that has imported torch and all that the tests import.

The mutant exists in memory alone: an import hook gives its source in place of the file, which nobody touches.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType
from typing import Any

from tests.mutation.mutants import REPOSITORY, Mutant

_OPTIONS = (
    "-q",
    "-o",
    "addopts=",
    "-m",
    "not slow and not cuda",
    "-p",
    "no:xdist",
    "-p",
    "no:cacheprovider",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)
_SEED = "--hypothesis-seed=0"
_OF_PYTEST = ("pytest", "_pytest", "_hypothesis", "xdist")  # pytest rewrites its plugins when it imports them
_MEMORY = 12 * 2**30


class _Loader(SourceFileLoader):
    """Compiles the source it was given; the file's is only shown in tracebacks."""

    source = ""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self.source, self.path, "exec", dont_inherit=True)
        return code


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != self.mutant.module:
            return None
        loader = _Loader(fullname, str(REPOSITORY / self.mutant.path))
        loader.source = self.mutant.source
        return importlib.util.spec_from_file_location(fullname, loader.path, loader=loader)


class _Failures:
    """A plugin of pytest that remembers the tests and files that failed."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.names.append(report.nodeid)

    pytest_collectreport = pytest_runtest_logreport


def _pytest(tests: Sequence[str], *more: str) -> dict[str, Any]:
    import hypothesis
    import pytest

    # A counterexample is enough: it need not be the smallest, and nobody needs it again.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutation", phases=phases, database=None, report_multiple_bugs=False)
    hypothesis.settings.load_profile("mutation")
    failures = _Failures()
    code = pytest.main([*_OPTIONS, _SEED, *more, *tests], plugins=[failures])
    return {"code": int(code), "failed": failures.names}


def run_tests(tests: Sequence[str], mutant: Mutant, left_out: Sequence[str]) -> dict[str, Any]:
    """The tests' exit code and first failure, with the mutant in place of its file. Only for a forked process."""
    sys.meta_path.insert(0, _Finder(mutant))
    return _pytest(tests, "-x", *(f"--deselect={name}" for name in left_out))


def run_unchanged(tests: Sequence[str]) -> dict[str, Any]:
    """The tests' exit code and every failure without a mutant. Only for a forked process."""
    return _pytest(tests)


def imported_by(tests: Sequence[str]) -> list[str]:
    """Installed modules that the tests import. Only for a forked process."""
    _pytest(tests, "--collect-only")
    files = {name: getattr(module, "__file__", None) or "" for name, module in list(sys.modules.items())}
    return [name for name, file in files.items() if "site-packages" in file and not name.startswith(_OF_PYTEST)]


def import_all(modules: Sequence[str]) -> None:
    """Import ``modules`` here, so that processes forked from this one have them."""
    for name in modules:
        with suppress(Exception):
            importlib.import_module(name)


class Child:
    """A forked process that calls ``work``, silently, and hands its answer back as JSON."""

    def __init__(self, work: Callable[[], Any], cpu_seconds: int) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(write)
            return
        try:  # the child, which never returns
            self._prepare(cpu_seconds)
            os.write(write, json.dumps(work()).encode())
        except BaseException:
            os.write(write, json.dumps({"code": -1, "failed": [traceback.format_exc()[-2000:]]}).encode())
        os._exit(0)

    @staticmethod
    def _prepare(cpu_seconds: int) -> None:
        os.setsid()  # so that the processes of a test are killed with it
        silent = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silent, descriptor)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = tempfile.gettempdir()
        sys.dont_write_bytecode = True
        os.chdir(REPOSITORY)

    def answer(self) -> Any:
        """What ``work`` returned, or None if the process was killed; waits for it."""
        with os.fdopen(self._read, "rb") as pipe:
            text = pipe.read()
        return json.loads(text) if text else None
