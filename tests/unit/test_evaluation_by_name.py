"""Columns by name: each is its library's attack or the user's function, judged by our own check."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from toolkit_ext.attacks.by_name import NamedAttack
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Evaluation, Protocol, evaluate, evaluate_budgets, load_protocol, unpack_flags
from toolkit_ext.evaluation.running.isolation import preserved_rng

EPS = 0.05


def case() -> tuple[nn.Module, Tensor, Tensor]:
    """A classifier of grey images of 8x8, and images of which all but the first are classified correctly."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4)).eval()
    x = torch.rand(8, 1, 8, 8)
    y = model(x).argmax(dim=1)
    y[0] = (y[0] + 1) % 4
    return model, x, y


def run(*attacks: str, norm: Any = "Linf", eps: float = EPS, **options: Any) -> Evaluation:
    protocol = Protocol("t", norm, eps, attacks=("clean", *attacks), attack_args=options.pop("attack_args", {}))
    return evaluate(*case(), protocol, **{"seed": 3, "progress": False, **options})


def own(folder: Path, body: str, name: str = "mine.py", head: str = "model, images, labels, *, eps, norm") -> str:
    """A file with the function ``attack`` of that ``body``."""
    (folder / name).write_text(f"import torch\n\n\ndef attack({head}):\n    {body}\n")
    return f"{folder / name}:attack"


def torchattacks_direct(name: str, model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    with preserved_rng(torch.device("cpu")):
        torch.manual_seed(3)
        made: Tensor = getattr(torchattacks, name)(model, **options)(x, y)
    return made


def art_direct(name: str, model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    loss = nn.CrossEntropyLoss()
    classifier = PyTorchClassifier(model, loss=loss, input_shape=(1, 8, 8), nb_classes=4, clip_values=(0.0, 1.0))
    np.random.seed(3)
    own = np.random.RandomState  # ART makes generators without a seed
    attack = getattr(evasion, name)(classifier, **options)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(np.random, "RandomState", lambda: own(np.random.randint(2**32, dtype=np.uint32)))
        return torch.from_numpy(attack.generate(x.numpy(), nn.functional.one_hot(y, 4).float().numpy()))


DRAWS = "import numpy, random; print(torch.rand(()), numpy.random.rand(), random.random()); return images"
QUIET = {"verbose": False, "batch_size": 7}
# What we call the attack, its norm and arguments; the direct call with every argument written out.
SAME: dict[str, tuple[str, str, dict[str, Any], Any, dict[str, Any]]] = {
    "defaults scaled to eps": (
        *("torchattacks:VMIFGSM", "Linf", {"steps": 3}, torchattacks_direct),
        {"eps": EPS, "alpha": 2 / 255 * (EPS / (8 / 255)), "steps": 3},
    ),
    "a norm and a seed": (
        *("torchattacks:APGD", "L2", {"steps": 4}, torchattacks_direct),
        {"norm": "L2", "eps": EPS, "steps": 4, "seed": 3},
    ),
    "the number of classes": (
        *("torchattacks:APGDT", "Linf", {"steps": 4}, torchattacks_direct),
        {"eps": EPS, "steps": 4, "seed": 3, "n_classes": 4},
    ),
    "a fraction as text": (
        *("torchattacks:BIM", "Linf", {"alpha": "4/255"}, torchattacks_direct),
        {"eps": EPS, "alpha": 4 / 255},
    ),
    "no radius": ("torchattacks:CW", "L2", {"steps": 5, "c": 5}, torchattacks_direct, {"steps": 5, "c": 5}),
    "ART, random numbers of NumPy": (
        *("art:ProjectedGradientDescentNumpy", "L2", {"max_iter": 3, "num_random_init": 1}, art_direct),
        {"norm": 2, "eps": EPS, "eps_step": 0.1 * (EPS / 0.3), "max_iter": 3, "num_random_init": 1, **QUIET},
    ),
    "ART, no radius": (
        *("art:CarliniL2Method", "L2", {"max_iter": 2, "binary_search_steps": 2}, art_direct),
        {"max_iter": 2, "binary_search_steps": 2, **QUIET},
    ),
    "ART, black box": (
        *("art:HopSkipJump", "L2", {"max_iter": 1, "max_eval": 50, "init_eval": 10}, art_direct),
        {"norm": 2, "max_iter": 1, "max_eval": 50, "init_eval": 10, **QUIET},
    ),
}


@pytest.mark.parametrize("named", SAME)
def test_a_column_is_its_librarys_attack(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attack, norm, arguments, direct, options = SAME[named]
    name = attack.partition(":")[2]
    if name == "HopSkipJump":  # ART passes float64 to the model, so directly it works for such models alone
        monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: self._conv_forward(x.float(), self.weight, self.bias))
    found = run(attack, norm=norm, eps=EPS, attack_args=arguments)
    model, x, y = case()
    inputs = direct(name, model, x[1:], y[1:], **options)
    difference = (inputs.double() - x[1:].double()).flatten(1)
    size = torch.linalg.vector_norm(difference, ord=torch.inf if norm == "Linf" else 2, dim=1)
    fooled = model(inputs).argmax(dim=1) != y[1:]
    inside = size <= EPS + 1e-6 + (1e-5 * EPS if norm == "L2" else 0)
    assert torch.equal(found.robust[attack][1:], ~(fooled & inside))
    assert found.details[attack]["refuted"] == int((fooled & ~inside).sum())
    theirs = inputs[fooled & inside]
    torch.testing.assert_close(found.examples.inputs[1:], theirs.float(), rtol=0, atol=1e-5)
    known = {"torchattacks": "torchattacks", "art": "art"}[attack.partition(":")[0]]
    facts = found.settings["attacks"][attack]
    assert facts["library"].startswith(known)
    assert facts["arguments"].keys() == arguments.keys()


OWN_GENERATORS = {  # what makes generators of NumPy without a seed: those attacks of ART, and a user's function
    "art:HopSkipJump": {"max_iter": 1, "max_eval": 50, "init_eval": 10},
    "art:BoundaryAttack": {"max_iter": 2, "num_trial": 2, "sample_size": 2},
    "default_rng": {},
    "RandomState": {},
}


@pytest.mark.parametrize("attack", OWN_GENERATORS)
def test_generators_made_without_a_seed_repeat(attack: str, tmp_path: Path) -> None:
    arguments = OWN_GENERATORS[attack]
    if not attack.startswith("art:"):
        noise = f"numpy.random.{attack}().uniform(size=tuple(images.shape))"
        attack = own(tmp_path, f"import numpy; return torch.from_numpy({noise}).float()")
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    runs = [run(attack, norm="L2", eps=20.0, attack_args=arguments, seed=seed) for seed in (3, 3, 4)]
    first, again, other = (each.examples.inputs for each in runs)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


def test_an_example_outside_of_the_ball_is_no_success_and_is_named(tmp_path: Path) -> None:
    body = """import torchattacks
    made = torchattacks.FGSM(model, eps=0.5)(images, labels)
    made[:2] = images[:2]
    return made"""
    found = run(own(tmp_path, body))
    assert found.metrics["mine:attack_acc"] == found.metrics["clean_acc"] == 7 / 8
    model, x, y = case()
    wrong = torch.zeros(8, dtype=torch.bool)
    wrong[3:] = model(torchattacks.FGSM(model, eps=0.5)(x[3:], y[3:])).argmax(dim=1) != y[3:]
    assert wrong.any()
    assert torch.equal(found.refuted["mine:attack"], wrong)
    (flag,) = found.warnings
    places = ", ".join(map(str, wrong.nonzero().flatten().tolist()))
    assert (flag.kind, flag.attack, flag.count) == ("recheck", "mine:attack", int(wrong.sum()))
    assert f"by reason: norm {int(wrong.sum())} (images {places})" in flag.message
    details = json.loads(json.dumps(found.to_record()))["details"]
    assert details["attacks"]["mine:attack"]["refuted"] == int(wrong.sum())
    assert torch.equal(unpack_flags(details["refuted"]["mine:attack"], 8), wrong)


@pytest.mark.parametrize("value", ["-0.001", "1.001", "float('nan')"])
def test_the_box_is_checked(value: str, tmp_path: Path) -> None:
    outside = own(tmp_path, f"made = images.clone(); made[:, 0, 0, 0] = {value}; return made")
    found = run(outside, eps=1.0)
    assert found.metrics["mine:attack_acc"] == 7 / 8


def test_an_attack_without_a_radius_is_judged_at_the_protocols() -> None:
    few, many = (run("torchattacks:DeepFool", norm="L2", eps=eps) for eps in (1e-4, 5.0))
    assert few.metrics["torchattacks:DeepFool_acc"] == 7 / 8
    assert few.details["torchattacks:DeepFool"]["refuted"] == many.details["torchattacks:DeepFool"]["broken"] > 0
    assert not few.warnings
    assert many.details["torchattacks:DeepFool"]["refuted"] == 0


def test_the_users_function_gets_the_budget_its_arguments_and_copies(tmp_path: Path) -> None:
    body = """model.train(); torch.rand(3)
    made = (images + weight * eps * torch.sign(torch.randn_like(images))).clamp(0, 1)
    images.zero_(); labels.zero_()
    assert norm == "Linf"
    return made"""
    path = own(tmp_path, body, head="model, images, labels, *, eps, norm, weight")
    found = run(path, "fgsm", attack_args={"attack.weight": 1})
    assert found.details["mine:attack"]["refuted"] == 0
    assert found.metrics["fgsm_acc"] == run("fgsm").metrics["fgsm_acc"]
    facts = found.settings["attacks"]["mine:attack"]
    assert facts["arguments"] == {"weight": 1}
    assert facts["code"].startswith("mine.py:attack@")


def test_generators_are_put_back_and_seeded(tmp_path: Path) -> None:
    path = own(
        tmp_path, "import numpy, random; print(torch.rand(()), numpy.random.rand(), random.random()); return images"
    )
    states = np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()  # type: ignore[index]
    case_of_test = case()
    torch.set_rng_state(torch.tensor(states[2], dtype=torch.uint8))
    evaluate(*case_of_test, Protocol("t", "Linf", EPS, attacks=(path,)), progress=False)
    assert np.random.get_state()[1].tolist() == states[0]  # type: ignore[index]
    assert (random.getstate(), torch.get_rng_state().tolist()) == states[1:]


def test_seeds_repeat_and_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = own(
        tmp_path, "import numpy, random; print(torch.rand(()), numpy.random.rand(), random.random()); return images"
    )
    for seed in (1, 1, 2):
        run(path, seed=seed)
    first, again, other = capsys.readouterr().out.splitlines()
    assert first == again
    assert all(a != b for a, b in zip(first.split(" "), other.split(" "), strict=True))


WRONG = {
    "a library": (("foolbox:PGD",), {}, r"attacks: 'foolbox' is not known; allowed: art, torchattacks"),
    "a library, nearly": (("torchatack:PGD",), {}, r"'torchatack' is not known \(did you mean torchattacks\?\)"),
    "a class": (("torchattacks:VMIFGM",), {}, r"attacks: torchattacks: 'VMIFGM' is not known \(did you mean VMIFGSM"),
    "what is no attack": (("art:EvasionAttack",), {}, r"attacks: art: 'EvasionAttack' is not known"),
    "a module": (("torchattacks:torch",), {}, r"attacks: torchattacks: 'torch' is not known"),
    "targeted": (("art:TargetedUniversalPerturbation",), {}, "is a targeted attack, and attacks here look for any"),
    "made to be targeted": (
        ("art:DeepFool", "art:PixelAttack"),
        {"targeted": True},
        "attack-arg: targeted is not allo",
    ),
    "of attacks": (("torchattacks:MultiAttack",), {}, "torchattacks:MultiAttack is made of other attacks"),
    "missing arguments": (("torchattacks:LGV",), {}, "LGV needs the argument trainloader; give --attack-arg trainload"),
    "for another model": (("art:DPatch",), {}, r"attacks: art:DPatch fails \(EstimatorError: DPatch requires"),
    "a budget of its own": (("torchattacks:PGD",), {"eps": 1}, "attack-arg: eps is not allowed for torchattacks:PGD"),
    "an argument": (("torchattacks:PGD",), {"stepz": 1}, r"attack-arg: 'stepz' is not known \(did you mean steps"),
    "an argument of one": (("torchattacks:PGD",), {"PGD.c": 1}, r"attack-arg: torchattacks:PGD: 'c' is not known"),
    "an argument of another": (("torchattacks:PGD",), {"CW.c": 1}, r"attack-arg: 'CW' is not known.*; allowed: PGD"),
    "an argument of none": (("pgd20",), {"steps": 1}, "attack-arg: steps has no effect without an attack by name"),
    "no number": (("torchattacks:PGD",), {"alpha": "much"}, "attack-arg: alpha: 'much' is not a number"),
    "no such file": (("nowhere/mine.py:attack",), {}, "attacks: nowhere/mine.py: no such file"),
}


@pytest.mark.parametrize("named", WRONG)
def test_what_cannot_be_run_is_told_in_one_line(named: str) -> None:
    attacks, arguments, message = WRONG[named]
    with pytest.raises(UserError, match=message) as caught:
        run(*attacks, attack_args=arguments)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchattacks"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(UserError, match="torchattacks:PGD needs the package torchattacks; pip install torchattacks"):
        NamedAttack("torchattacks:PGD")


OWN = {
    "an error": ("raise KeyError('gone')", r"mine\.py:attack fails \(KeyError: 'gone'\)"),
    "another shape": ("return images[:, :, 1:]", r"returns torch.float32 \[7, 1, 7, 8\]; it must return images"),
    "whole numbers": ("return (255 * images).to(torch.uint8)", r"returns torch.uint8 \[7, 1, 8, 8\]; it must return"),
    "no tensor": ("return None", "returns NoneType; it must return images, floats of shape"),
}


@pytest.mark.parametrize("named", OWN)
def test_what_the_users_function_does_wrong_is_told(named: str, tmp_path: Path) -> None:
    body, message = OWN[named]
    with pytest.raises(UserError, match=message):
        run(own(tmp_path, body))


@pytest.mark.parametrize("head", ["model, images", "model, images, labels, eps", "model, images, labels, *, eps"])
def test_the_form_of_the_users_function_is_checked(head: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must have the form attack\(model, images, labels, \*, eps, norm\)"):
        run(own(tmp_path, "return images", head=head))


def test_two_files_with_the_same_column_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files = [own(tmp_path, "return images"), own(tmp_path / "other", "return images")]
    with pytest.raises(UserError, match="two files would make the column mine:attack"):
        run(*files)


def test_a_protocol_file_names_libraries_and_no_code(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"name": "t", "norm": "Linf", "eps": "8/255", "attacks": ["torchattacks:PGD"]}
    file = tmp_path / "p.json"
    file.write_text(json.dumps({**fields, "attack_args": {"steps": 2}}))
    assert load_protocol(file).to_dict()["attack_args"] == {"steps": 2}
    file.write_text(json.dumps({**fields, "attacks": [own(tmp_path, "raise SystemExit")]}))
    with pytest.raises(UserError, match="is code, and a protocol is data; give it with --attacks"):
        load_protocol(file)


def test_batches_are_resumed_and_not_with_other_arguments_or_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body, head = "print('attacked'); return images", "model, images, labels, *, eps, norm, k=1"
    counting = own(tmp_path, body, head=head)

    def attacked(**options: Any) -> int:
        run(counting, "fgsm", state_dir=tmp_path / "state", **options)
        return capsys.readouterr().out.count("attacked")

    assert [attacked(), attacked(), attacked(attack_args={"k": 2}), attacked(attack_args={"k": 2})] == [1, 0, 1, 0]
    own(tmp_path, body + "  # changed", head=head)
    assert [attacked(), attacked()] == [1, 0]


def test_a_curve_keeps_what_a_smaller_radius_broke() -> None:
    protocol = Protocol("t", "Linf", EPS, attacks=("clean", "torchattacks:PGD"))
    low, high = evaluate_budgets(*case(), protocol, [0.01, 0.1], progress=False)
    name = "torchattacks:PGD"
    assert high.carried[name] == int((low.robust["clean"] & ~low.robust[name]).sum())
    assert high.metrics[f"{name}_acc"] < low.metrics[f"{name}_acc"]


def test_a_protocol_without_attacks_by_name_is_written_as_before() -> None:
    assert "attack_args" not in Protocol("t", "Linf", EPS).to_dict()
    assert "attacks" not in run("fgsm").settings
