"""The weights after a short epoch are what they were; see golden_weights.py for what to do if that was intended."""

from __future__ import annotations

import json
from typing import Any

import pytest
from golden_weights import FILE, build, difference, train  # type: ignore[import-not-found]
from mechanisms import has_bf16  # type: ignore[import-not-found]
from weight_cases import CASES, Case  # type: ignore[import-not-found]

GOLDEN: dict[str, Any] = json.loads(FILE.read_text())
HASHES: dict[str, str] = GOLDEN["hashes"].get(build(), {})


def test_every_case_has_golden_weights() -> None:
    assert GOLDEN["summaries"].keys() == set(CASES), "run: python tests/golden/golden_weights.py"


@pytest.mark.parametrize("name", CASES)
def test_the_weights_are_what_they_were(name: str) -> None:
    case = Case.of(name)
    if case.is_half and not has_bf16():
        pytest.skip("the processor emulates bf16")
    found = train(name)
    assert found.engaged == case.engages
    assert found.restored, "training left the model in another layout, class or type"
    apart = difference(found.summary, GOLDEN["summaries"][name])
    assert apart <= case.tolerance
    if name in HASHES:
        assert found.hash == HASHES[name], f"other bits; the summary is {apart:.1e} off"
