"""Records to test with, and a browser for pages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from statsmodels.stats.proportion import proportion_confint

from toolkit_ext.results import SCHEMA, Record, validate

Make = Callable[..., Record]


def _bounds(value: float, n: int) -> list[float]:
    return [float(bound) for bound in proportion_confint(round(value * n), n, method="wilson")]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    kept: list[Figure] = []
    savefig = Figure.savefig

    def keep(figure: Figure, *args: Any, **options: Any) -> None:
        kept.append(figure)
        savefig(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


@pytest.fixture(scope="session")
def make() -> Make:
    """Make a valid record; ``n``, ``seed``, ``tables`` and other fields by name, ``<metric>_acc`` as metrics."""

    def build(method: str = "pgd", *, seed: int = 0, eps: float = 0.1, n: int = 360, **given: Any) -> Record:
        metrics = {name: given.pop(name) for name in list(given) if name.endswith("_acc")} or {"aa_acc": 0.5}
        record = {
            "schema": SCHEMA,
            "run_id": f"{method}-{seed}",
            "created": "2026-11-20T19:05:00Z",
            "method": method,
            "axes": {"attack": "pgd", "objective": "adversarial", "update": "plain", "schedule": "constant"},
            "hyper_parameters": {"eps": 0.1, "steps": 10, "milestones": [2, 3], "seed": seed},
            "data": {"name": "digits", "train": 1293, "validation": 144, "test": 360, "num_classes": 10},
            "backbone": {"name": "lenet", "args": {"width": 8}, "parameters": 52_714},
            "seed": seed,
            "protocol": {"name": "linf_0.1", "norm": "Linf", "eps": eps, "version": "standard"},
            "n_examples": n,
            "metrics": metrics,
            "intervals": {name: _bounds(value, n) for name, value in metrics.items()},
            "details": {"apgd-ce": {"broken": 12, "seconds": 1.5}},
            "omitted": {"apgd-t": "undefined for 2 classes"},
            "warnings": [],
            "alarms": [{"kind": "robust_overfitting", "epoch": 7, "message": "fell 3 epochs running"}],
            "times": {"train_s": 12.5, "eval_s": 3.25},
            "memory": {"host_mb": 512.0, "device_mb": None},
            "hardware": {
                "cpu": "A CPU",
                "cores": 2,
                "threads": 2,
                "flags": ["avx2"],
                "memory_mb": 8192,
                "gpu": None,
                "system": "Linux x86_64",
            },
            "versions": {"python": "3.11.7", "torch": "2.6.0", "toolkit_ext": None},
            "git": {"commit": "0" * 40, "dirty": False},
            "command": "toolkit-ext train pgd",
            "tables": [],
        }
        return validate(record | given)

    return build


_BITS = np.packbits([True] * 5 + [False] * 5).tobytes().hex()
_ROBUST = {"clean": np.packbits([True] * 9 + [False]).tobytes().hex(), "aa/apgd-ce": _BITS, "aa": _BITS}


def _record(method: str = "pgd", seed: int = 0, eps: float = 0.1, **given: Any) -> Record:
    """A valid record of ten images with a history of two epochs and results for each image."""
    history = [{"epoch": e, "loss_adversarial": 2 / e, "eps": 0.1, "lr": 0.1, "val_robust_acc": 0.4} for e in (1, 2)]
    attacks = {"aa/apgd-ce": {"attempted": 9, "broken": 4, "accuracy": 0.5, "seconds": 1.5}}
    made: dict[str, Any] = {
        "schema": SCHEMA,
        "run_id": f"{method}-{seed}-{eps:g}",
        "created": "2026-11-20T19:05:00Z",
        "method": method,
        "axes": {"attack": method, "objective": "adversarial", "update": "plain", "schedule": "constant"},
        "hyper_parameters": {"eps": 0.1, "steps": 10, "seed": seed},
        "data": {"name": "digits", "train": 1293, "validation": 144, "test": 360, "num_classes": 10},
        "backbone": {"name": "lenet", "args": {"width": 8}, "parameters": 52_714},
        "seed": seed,
        "protocol": {"name": "linf_0.1_digits", "norm": "Linf", "eps": eps, "version": "standard"},
        "n_examples": 10,
        "metrics": {"clean_acc": 0.9, "aa_acc": 0.5},
        "intervals": {"aa_acc": _bounds(0.5, 10)},
        "details": {"attacks": attacks, "robust": _ROBUST, "training": {"best_epoch": 2, "history": history}},
        "omitted": {"square": "not asked for"},
        "warnings": ["zero_gradients (aa/apgd-ce): at 3 attack starts"],
        "alarms": [{"kind": "robust_overfitting", "epoch": 7, "message": "fell 3 epochs running"}],
        "times": {"train_s": 12.5, "eval_s": 3.25},
        "memory": {"host_mb": 512.0, "device_mb": None},
        "hardware": {
            "cpu": "A CPU",
            "cores": 2,
            "threads": 2,
            "flags": [],
            "memory_mb": 8192,
            "gpu": None,
            "system": "Linux x86_64",
        },
        "versions": {"python": "3.11.7", "torch": "2.6.0"},
        "git": {"commit": "0" * 40, "dirty": False},
        "command": f"toolkit-ext train {method} --seed {seed}",
        "tables": [],
    }
    return validate(made | given)


@pytest.fixture(scope="session")
def record() -> Make:
    """Make a record as a training and its evaluation leave it: a history, and results for each of ten images."""
    return _record


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium without a network."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the extra browser (selenium) is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    found, chromedriver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if found is None or chromedriver is None:
        pytest.skip("no Chromium with its driver; on Debian: apt-get install chromium chromium-driver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = found
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        driver.set_network_conditions(offline=True, latency=0, throughput=0)
        yield driver
    finally:
        driver.quit()
