"""Which half precisions a processor has instructions for, and the refusal of the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from toolkit_ext.errors import UserError
from toolkit_ext.fast.formats import _BF16_ON_X86, check_native, is_native
from toolkit_ext.trainers import PGDTrainer, as_classifier

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("machine", "onednn", "instructions", "native"),
    [
        ("x86_64", True, True, True),
        ("AMD64", True, False, False),  # oneDNN takes bf16 on AVX-512 without instructions too, and emulates it
        ("aarch64", True, False, True),
        ("arm64", False, False, False),
    ],
)
def test_what_counts_as_instructions(
    machine: str, onednn: bool, instructions: bool, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    for name in _BF16_ON_X86:
        monkeypatch.setattr(torch.cpu, name, lambda: instructions, raising=False)
    assert is_native.__wrapped__("cpu", torch.bfloat16) is native


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("name", "dtype"), [("bf16-mixed", torch.bfloat16), ("fp16-mixed", torch.float16)])
def test_a_precision_without_instructions_is_refused(
    name: str, dtype: torch.dtype, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit_ext.fast.formats.is_native", lambda *_: native)
    check_native("precision", "fp32", CPU, None)
    if native:
        check_native("precision", name, CPU, dtype)
        return
    with pytest.raises(UserError, match=f"precision: {name} is not possible on this processor, which has no instr"):
        check_native("precision", name, CPU, dtype)


def test_a_trainer_refuses_it_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit_ext.fast.formats.is_native", lambda *_: False)
    classifier = as_classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)), (1, 2, 2), 3)
    with pytest.raises(UserError, match=r"^craft_precision: bf16-mixed is not possible"):
        PGDTrainer(classifier, craft_precision="bf16-mixed")


def test_the_trainer_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit_ext import fast

    monkeypatch.setattr("toolkit_ext.fast.formats.is_native", lambda *_: False)
    model = torch.nn.Linear(2, 2)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"precision": "bf16-mixed"}, "precision"),
        ({"attack_precision": "fp16-mixed"}, "craft_precision"),
    ]
    for options, option in cases:
        with pytest.raises(UserError, match=rf"^{option}: "):
            fast.plan(model, **options)
