"""Columns beside their libraries on a public network, measured again where CIFAR-10 is at hand."""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from typing import Any

import pytest

columns: Any = importlib.import_module("public_network")


@pytest.fixture(scope="module")
def case() -> Any:
    """The network and the images below ``TOOLKIT_DATA_ROOT``, or ``data``."""
    try:
        return columns.case(os.environ.get("TOOLKIT_DATA_ROOT", "data"))
    except ValueError as error:
        pytest.skip(f"needs CIFAR-10: {error}")


@pytest.mark.slow
@pytest.mark.timeout(1800)  # minutes of a core that has nothing else to do
@pytest.mark.parametrize(
    "name",
    [
        *("vmifgsm", "transfer", "own_function", "art_pgd", "art_square", "autoattack_l1", "smoothing"),
        "confidence",
        "corruptions",
    ],
)
def test_a_column_is_its_librarys(name: str, case: Any) -> None:
    if name == "corruptions" and find_spec("imagecorruptions") is None:
        pytest.skip("needs: pip install 'toolkit-ext[corruptions]'")
    found = getattr(columns, name)(case)
    for figure in found if isinstance(found[0], tuple) else (found,):
        assert figure.difference <= (5e-5 if name == "confidence" else 0)
        assert figure.ours == pytest.approx(figure.theirs, abs=5e-5)
