"""``--device``: auto is the default of every command, mps is refused in one line."""

from __future__ import annotations

from typing import Any

import click
import pytest
import torch

from toolkit_ext.cli import COMMANDS, cli
from toolkit_ext.devices import check_device
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.settings import RunContext


@pytest.mark.parametrize("there", [True, False])
def test_auto_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert check_device("auto") == torch.device("cuda" if there else "cpu")
    assert check_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["mps", "mps:0", "tpu", "xpu", "cuda:x", ""])
def test_other_devices_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match=r"^device: .*allowed: .*cuda") as caught:
        check_device(name)
    assert "\n" not in str(caught.value)


def test_auto_is_the_default_of_every_command() -> None:
    commands: list[Any] = [cli.get_command(click.Context(cli), name) for name in COMMANDS]
    defaults = [param.default for command in commands for param in command.params if param.name == "device"]
    assert len(defaults) >= 4
    assert {*defaults, RunContext().device} == {"auto"}
