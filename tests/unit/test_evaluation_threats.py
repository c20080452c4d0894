"""Several threat models: each alone, on average, and all at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit_ext import results
from toolkit_ext.cli import cli
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Budget, Protocol, Threats, evaluate, evaluate_threats

SHORT = Budget(n_iter=3, n_queries=10)
PROTOCOLS = [
    Protocol("one", "Linf", 0.04, attacks=("clean", "aa")),
    Protocol("two", "L2", 0.3, attacks=("clean", "aa", "pgd20")),
    Protocol("three", "L1", 0.6, attacks=("clean", "aa")),
]
OPTIONS: dict[str, Any] = {"budget": SHORT, "progress": False}


def case() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
    x = torch.rand(20, 1, 6, 6)
    y = model(x).argmax(dim=1)
    y[0] = (y[0] + 1) % 5
    return model, x, y


def test_the_union_is_that_of_the_single_evaluations(tmp_path: Path) -> None:
    model, x, y = case()
    found = evaluate_threats(model, x, y, PROTOCOLS, state_dir=tmp_path, **OPTIONS)
    alone = [evaluate(model, x, y, one, **OPTIONS).robust["aa"] for one in PROTOCOLS]
    for one, flags in zip(PROTOCOLS, alone, strict=True):
        assert torch.equal(found.evaluations[one.name].robust["aa"], flags)
    told = json.loads(json.dumps(found.to_dict()))
    shares = [float(flags.double().mean()) for flags in alone]
    assert told["each"] == dict(zip(("one", "two", "three"), shares, strict=True))
    assert told["average"] == pytest.approx(sum(shares) / 3)
    assert told["all"] == float((alone[0] & alone[1] & alone[2]).double().mean())
    assert told["interval"][0] <= told["all"] <= min(shares)
    assert 0 < told["all"] < told["average"]
    assert (told["column"], {path.name for path in tmp_path.iterdir()}) == ("aa", {"one", "two", "three"})


def test_without_autoattack_in_all_the_unions_are_joined() -> None:
    model, x, y = case()
    found = evaluate_threats(model, x, y, [PROTOCOLS[0].at(attacks=("fgsm",)), PROTOCOLS[1]], **OPTIONS)
    assert found.column == "union"
    both = found.evaluations["one"].robust["fgsm"] & found.evaluations["two"].robust["union"]
    assert torch.equal(found.robust, both)


def test_what_cannot_be_joined_is_refused() -> None:
    model, x, y = case()
    for protocols in ([PROTOCOLS[0]], [PROTOCOLS[0], PROTOCOLS[0]], []):
        with pytest.raises(UserError, match="give two or more, each once"):
            evaluate_threats(model, x, y, protocols, **OPTIONS)
    with pytest.raises(UserError, match="max_time: is not allowed with several radii or protocols"):
        evaluate_threats(model, x, y, PROTOCOLS, state_dir="s", max_time=1.0, **OPTIONS)
    clean = [one.at(attacks=("clean",)) for one in PROTOCOLS]
    first, other = evaluate(model, x, y, clean[0], **OPTIONS), evaluate(model, x[1:], y[1:], clean[1], **OPTIONS)
    with pytest.raises(UserError, match="threats: the evaluations differ in data_sha256"):
        Threats({"one": first, "two": other})


CODE = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


def call(tmp_path: Path, *words: str) -> None:
    (tmp_path / "net.py").write_text(CODE)
    places = ["--results", tmp_path / "results", "--output", tmp_path / "out", "--no-progress"]
    given = ["evaluate", f"{tmp_path / 'net.py'}:net", "--data", "digits", "--n", "12", *words, *places]
    cli.main([str(word) for word in given], standalone_mode=False)


def test_the_command_line_writes_a_record_for_each(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call(tmp_path, "--protocol", "linf_0.1_digits,l2_0.5,l1_12", "--attacks", "clean,fgsm")
    records = results.read_records(tmp_path / "results" / "runs", strict=True)
    assert {record["protocol"]["norm"] for record in records if record["protocol"]} == {"Linf", "L2", "L1"}
    (threats,) = {json.dumps(record["details"]["threats"], sort_keys=True) for record in records}
    assert json.loads(threats)["each"].keys() == {"linf_0.1_digits", "l2_0.5", "l1_12"}
    assert "all at once" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--eps", "0.1"), "eps: is not allowed with several protocols"),
        (("--audit",), "audit: is not allowed with several protocols"),
        (("--save-examples", "x.safetensors"), "save-examples: x.safetensors is one file for several protocols"),
        (("--max-time", "1"), "max-time: is not allowed with several protocols"),
    ],
)
def test_options_that_several_protocols_do_not_take(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        call(tmp_path, "--protocol", "linf_0.1_digits,l2_0.5", *words)
    with pytest.raises(UserError, match="has a protocol twice"):
        call(tmp_path, "--protocol", "l2_0.5,l2_0.5")
