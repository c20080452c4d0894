"""AutoAttack's own warnings reach the result as data, and its checks leave no trace."""

from __future__ import annotations

import logging
import sys
import threading
from types import FrameType
from typing import Any

import pytest
import torch
from pyautoattack import checks
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Budget, Evaluation, Protocol, evaluate
from toolkit_ext.evaluation.result import Flag
from toolkit_ext.evaluation.running.recheck import rejected_flag
from toolkit_ext.evaluation.suite.autoattack import Collector, read_flags

SHORT = Budget(n_iter=3, n_queries=40)


class Net(nn.Module):
    """A linear classifier with a switch for every habit that AutoAttack warns of."""

    def __init__(self, habit: str = "") -> None:
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.habit = habit

    def forward(self, x: Tensor) -> Tensor:
        if self.habit == "randomized":
            x = x + 0.05 * torch.randn_like(x)
        if self.habit == "dynamic":
            with torch.enable_grad():
                inner = x.detach().requires_grad_()
                x = x + 0 * torch.autograd.grad(self.linear(inner.flatten(1)).sum(), inner)[0]
        if self.habit == "masked":
            x = (x * 8).round() / 8
        logits: Tensor = self.linear(x.flatten(1))
        return logits.softmax(dim=1) if self.habit == "probabilities" else logits


def run(habit: str = "", eps: float = 0.02, **options: Any) -> Evaluation:
    torch.manual_seed(0)
    model, x = Net(habit), torch.rand(12, 1, 8, 8)
    y = model(x).argmax(dim=1)
    return evaluate(model, x, y, Protocol("t", "Linf", eps), batch_size=6, budget=SHORT, progress=False, **options)


def kinds(evaluation: Evaluation) -> set[str]:
    return {flag.kind for flag in evaluation.warnings}


def test_an_honest_model_has_none() -> None:
    assert run().warnings == ()


def test_randomized() -> None:
    assert "randomized" in kinds(run("randomized"))


def test_dynamic_and_not_the_model_after_it() -> None:
    assert "dynamic" in kinds(run("dynamic"))
    assert "dynamic" not in kinds(run())
    assert set(checks.funcs.values()) == {0}


def test_zero_gradients_are_counted() -> None:
    # At this radius nothing is ever broken: one start of each example for each of the 3 target classes.
    flags = [flag for flag in run("masked", 0.0001).warnings if flag.kind == "zero_gradients"]
    found = {flag.attack: flag for flag in flags}
    assert list(found) == ["aa/apgd-ce", "aa/apgd-t", "aa/fab-t"]
    assert found["aa/apgd-t"].count == 12 * 3
    assert "36 attack starts" in found["aa/apgd-t"].message  # pyautoattack's own words
    assert "12 of 12 images (100.0%)" in found["aa/apgd-ce"].message


def test_square_beats_the_white_box_attacks() -> None:
    evaluation = run("masked", 0.1)
    assert evaluation.details["aa/square"]["broken"] > 0
    (flag,) = (flag for flag in evaluation.warnings if flag.kind == "square_beats_white_box")
    assert flag.attack == "aa/square"
    assert "flags_doc" not in flag.message


def test_square_is_compared_with_the_attacks_before_it() -> None:
    torch.manual_seed(0)
    model, x = Net("masked"), torch.rand(12, 1, 8, 8)
    y = model(x).argmax(dim=1)
    protocol = Protocol("t", "Linf", 0.1, version="plus")
    evaluation = evaluate(model, x, y, protocol, batch_size=6, budget=SHORT, progress=False)
    assert "square_beats_white_box" in kinds(evaluation)


def test_probabilities_are_refused_unless_asked_for() -> None:
    with pytest.raises(UserError, match="model: returns probabilities; the attacks need logits"):
        run("probabilities")
    assert "probabilities" in kinds(run("probabilities", reject_probabilities=False))


def test_warnings_survive_a_resume(tmp_path: Any) -> None:
    whole = run("masked", 0.1, state_dir=tmp_path)
    assert run("masked", 0.1, state_dir=tmp_path).warnings == whole.warnings != ()


def test_tracers_are_put_back() -> None:
    def tracer(frame: FrameType, event: str, argument: Any) -> None:
        return None

    found = []

    def traced() -> None:
        sys.settrace(tracer)
        run()
        found.append(sys.gettrace())
        sys.settrace(None)

    # Trace functions belong to a thread: a coverage run of this test keeps its own.
    thread = threading.Thread(target=traced)
    thread.start()
    thread.join()
    assert found == [tracer]


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    run("masked", 0.1)
    assert capsys.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_collector_keeps_warnings_alone() -> None:
    collector = Collector()
    collector.logger.info("progress")
    collector.logger.warning("it seems to be a dynamic defense! See flags_doc.md for details.")
    messages = collector.take()
    assert collector.take() == []
    assert read_flags(messages, "x") == [Flag("dynamic", "it seems to be a dynamic defense!", "x")]


def test_unknown_messages_are_kept_each() -> None:
    assert [flag.message for flag in read_flags(["one", "two", "one"])] == ["one", "two"]
    assert {flag.kind for flag in read_flags(["one"])} == {"other"}


def test_text_of_a_flag() -> None:
    (flag,) = rejected_flag({"norm": 2, "label": 1}, "aa/square")
    assert str(flag).startswith("recheck (aa/square): ")
    assert str(flag).endswith("norm 2, label 1")
    assert rejected_flag({}, "aa/square") == []
