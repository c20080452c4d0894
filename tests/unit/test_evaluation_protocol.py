"""Protocols: the files that come with the package, the user's own, and what is refused."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import COLUMNS, Protocol, load_protocol, protocol, protocol_names

ROOT = Path(__file__).parents[2]
SHIPPED = {
    "linf_8_255": ("Linf", 8 / 255),
    "linf_8_255_pgd40": ("Linf", 8 / 255),
    "linf_4_255": ("Linf", 4 / 255),
    "linf_0.3_mnist": ("Linf", 0.3),
    "linf_0.4_mnist": ("Linf", 0.4),
    "l2_0.5": ("L2", 0.5),
    "l1_12": ("L1", 12.0),
    "l2_1.5_mnist": ("L2", 1.5),
    "linf_0.1_digits": ("Linf", 0.1),
}


def test_shipped_names() -> None:
    assert set(protocol_names()) == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_protocol(name: str) -> None:
    loaded = load_protocol(name)
    assert (loaded.name, loaded.norm, loaded.eps) == (name, *SHIPPED[name])
    assert loaded.version == "standard"
    assert {"clean", "fgsm", "pgd20", "mim", "aa"} <= set(loaded.attacks)
    assert load_protocol(ROOT / "eval" / "protocols" / f"{name}.json") == loaded
    assert Protocol(**loaded.to_dict()) == loaded
    assert json.loads(json.dumps(loaded.to_dict())) == loaded.to_dict()


def test_the_steps_of_pgd40_are_those_of_its_source() -> None:
    assert load_protocol("linf_8_255_pgd40").step_size("pgd40") == pytest.approx(0.001)


def test_wheel_carries_the_protocols_to_where_they_are_looked_for() -> None:
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    package = Path(protocol.__file__).parent.relative_to(ROOT)
    assert included["force-include"]["eval/protocols"] == (package / "protocols").as_posix()


def test_protocols_are_found_without_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "installed.json").write_text('{"name": "installed", "norm": "L2", "eps": 1}')
    monkeypatch.setattr(protocol, "_FOLDERS", (tmp_path, tmp_path / "absent"))
    assert protocol_names() == ["installed"]
    assert load_protocol("installed").eps == 1


def test_step_sizes_follow_eps() -> None:
    cifar = load_protocol("linf_8_255")
    assert cifar.step_size("pgd20") == pytest.approx(2 / 255)
    assert cifar.step_size("mim") == pytest.approx(0.8 / 255)
    assert cifar.step_size("pgd_l2") == 0.5 / 8
    half = cifar.at(eps="4/255")
    assert half.step_size("pgd20") == pytest.approx(1 / 255)
    assert half.step_size("pgd_l2") == 0.5 / 8
    assert half.name == "linf_8_255@4_255"
    assert half.at(eps=0.5).name == "linf_8_255@0.5"
    assert cifar.at(attacks=("aa",), version="plus").attacks == ("aa",)
    # Without a rule: 2.5 eps / steps.
    assert Protocol("p", "Linf", 0.2).step_size("pgd100") == pytest.approx(2.5 * 0.2 / 100)


def test_radius_of_the_l2_column() -> None:
    assert load_protocol("linf_8_255").radius("pgd_l2") == ("L2", 0.5)
    assert load_protocol("linf_8_255").radius("pgd20") == ("Linf", 8 / 255)
    assert load_protocol("l2_1.5_mnist").radius("pgd_l2") == ("L2", 1.5)


@given(st.integers(0, 255), st.sampled_from(["Linf", "L2"]), st.sampled_from(COLUMNS))
def test_eps_as_text_is_the_number(levels: int, norm: Any, column: str) -> None:
    text, number = Protocol("p", norm, f"{levels}/255", l2_eps=1), Protocol("p", norm, levels / 255, l2_eps=1)  # type: ignore[arg-type]
    assert text == number
    assert text.radius(column) == number.radius(column)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "L3"}, "norm: 'L3' is not known"),
        ({"version": "fast"}, "version: 'fast' is not known.*plus, rand, standard"),
        ({"attacks": ["pgd21"]}, "attacks: 'pgd21' is not known .did you mean pgd20"),
        ({"eps": 8}, "eps: 8 is not allowed.*8/255"),
        ({"eps": -0.1}, "eps: -0.1 is not allowed"),
        ({"eps": "wide"}, "eps: 'wide' is not a number"),
        ({"eps": float("nan")}, "eps: nan is not allowed"),
        ({"alpha": {"fgsm": "eps/4"}}, "alpha: 'fgsm' is not known"),
        ({"alpha": {"pgd20": "eps/0"}}, "alpha of pgd20: divisor: 0.0 is not allowed"),
        ({"alpha": {"pgd20": "2/255"}}, "alpha of pgd20: '2/255' is not allowed"),
        ({"attacks": ["pgd_l2"]}, "l2_eps: is missing"),
        ({"l2_eps": -1}, "l2_eps: -1 is not allowed"),
    ],
)
def test_refused_fields(fields: dict[str, Any], message: str) -> None:
    defaults: dict[str, Any] = {"name": "p", "norm": "Linf", "eps": 0.1}
    with pytest.raises(UserError, match=message) as error:
        Protocol(**(defaults | fields))
    assert "\n" not in str(error.value)


def test_attacks_are_run_once_in_the_order_given() -> None:
    assert Protocol("p", "Linf", 0.1, attacks=("mim", "aa", "mim", "fgsm")).attacks == ("mim", "aa", "fgsm")


def test_l2_radius_may_be_above_1() -> None:
    assert Protocol("p", "L2", 3).eps == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "not a readable JSON file"),
        ("[1]", "must be an object"),
        ('{"name": "p", "norm": "L2"}', "must be an object with name, norm and eps"),
        ('{"name": "p", "norm": "L2", "eps": 1, "epsilon": 2}', "known fields: name, norm, eps, version"),
    ],
)
def test_refused_file(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_protocol(path)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"protocol: 'linf_8_25' is not known \(did you mean linf_8_255"):
        load_protocol("linf_8_25")
