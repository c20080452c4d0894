"""Batches of an evaluation under way count only as they were stored, and their successes only if they are some."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Evaluation, Protocol, evaluate, load_examples
from toolkit_ext.evaluation.running.runner import Runner
from toolkit_ext.evaluation.tensor_files import read_tensors, write_tensors

PROTOCOL = Protocol("test", "Linf", 0.1, attacks=("clean", "fgsm", "pgd20"))
Tensors = dict[str, Tensor]


class Bright(nn.Module):
    """Class 1 where the mean pixel is above one half: an attack of 0.1 breaks what is above 0.4."""

    def forward(self, x: Tensor) -> Tensor:
        margin = x.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack((-margin, margin), dim=1)


def run(folder: Path | None, **given: Any) -> Evaluation:
    x = torch.linspace(0.3, 0.48, 8).reshape(8, 1, 1, 1).expand(8, 1, 4, 4).contiguous()
    options: dict[str, Any] = {"batch_size": 4, "progress": False, **given}
    return evaluate(Bright(), x, torch.zeros(8, dtype=torch.int64), PROTOCOL, state_dir=folder, **options)


def figures(evaluation: Evaluation) -> tuple[Any, ...]:
    examples = evaluation.examples
    return evaluation.metrics, examples.attacks, examples.inputs.tolist(), examples.indices.tolist()


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The attacks of batches that were not taken from the folder."""
    found: list[str] = []
    attack = Runner._attack

    def noted(self: Runner, job: Any, indices: Tensor) -> Any:
        found.append(f"{job.name}-{indices[0] // 4}")
        return attack(self, job, indices)

    monkeypatch.setattr(Runner, "_attack", noted)
    return found


def edit(path: Path, change: Callable[[Tensors], Any], *, seal: str | None = None) -> None:
    """Change the tensors of a file and keep its checksum; ``seal`` gives it a right one, as that name's."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        texts = file.metadata()
    change(tensors)
    if seal is None:
        save_file(tensors, path, texts)
    else:
        del texts["sha256"]
        write_tensors(path, tensors, texts, seal)


def survive(tensors: Tensors) -> None:
    """As if the attack had broken nothing: what raises the accuracy."""
    tensors["broken"][:] = False
    tensors["kept"][:] = False
    tensors["inputs"] = tensors["inputs"][:0]


def test_an_edited_batch_is_attacked_again(tmp_path: Path, attacked: list[str], caplog: Any) -> None:
    whole = run(tmp_path)
    assert 0 < whole.metrics["union_acc"] < 1
    attacked.clear()
    assert figures(run(tmp_path)) == figures(whole)
    assert attacked == []
    edit(tmp_path / "batch-fgsm-00001.safetensors", survive)
    edit(tmp_path / "batch-pgd20-00001.safetensors", survive)
    with caplog.at_level(logging.WARNING, "toolkit_ext"):
        assert figures(run(tmp_path)) == figures(whole)
    assert attacked == ["fgsm-1", "pgd20-1"]
    assert [r.getMessage().count("is not used, the batch is attacked again") for r in caplog.records] == [1, 1]


def _no_success(tensors: Tensors) -> None:
    tensors["inputs"][:] = 0.3


def _too_far(tensors: Tensors) -> None:
    tensors["inputs"] += 0.01


def _out_of_the_box(tensors: Tensors) -> None:
    tensors["inputs"][0, 0, 0, 0] = 1.5


@pytest.mark.parametrize("change", [_no_success, _too_far, _out_of_the_box])
def test_stored_successes_are_checked_again(
    change: Callable[[Tensors], Any], tmp_path: Path, attacked: list[str], caplog: Any
) -> None:
    """Even with a checksum that fits: with the version that wrote it, these were successes."""
    whole = run(tmp_path)
    attacked.clear()
    edit(tmp_path / "batch-fgsm-00001.safetensors", change, seal="fgsm-00001")
    with caplog.at_level(logging.WARNING, "toolkit_ext"):
        assert figures(run(tmp_path)) == figures(whole)
    assert attacked == ["fgsm-1"]
    assert "stored successes fail the re-check" in caplog.text


def test_a_batch_of_another_attack_is_not_taken(tmp_path: Path, attacked: list[str]) -> None:
    whole = run(tmp_path)
    attacked.clear()
    source = tmp_path / "batch-clean-00001.safetensors"
    (tmp_path / "batch-fgsm-00001.safetensors").write_bytes(source.read_bytes())
    assert figures(run(tmp_path)) == figures(whole)
    assert attacked == ["fgsm-1"]


@pytest.mark.parametrize("change", ["kept", "inputs", "predictions", "broken"])
def test_a_batch_of_another_form_is_not_taken(change: str, tmp_path: Path, attacked: list[str]) -> None:
    whole = run(tmp_path)
    attacked.clear()

    def shorten(tensors: Tensors) -> None:
        tensors[change] = tensors[change][1:]

    edit(tmp_path / "batch-fgsm-00001.safetensors", shorten, seal="fgsm-00001")
    assert figures(run(tmp_path)) == figures(whole)
    assert attacked == ["fgsm-1"]


def test_batches_without_a_checksum_are_used_and_said_to_be(tmp_path: Path, attacked: list[str], caplog: Any) -> None:
    whole = run(tmp_path)
    attacked.clear()
    for path in tmp_path.glob("batch-*"):
        tensors, texts = read_tensors(path, path.stem.removeprefix("batch-"))
        save_file(tensors, path, texts)
    with caplog.at_level(logging.WARNING, "toolkit_ext"):
        assert figures(run(tmp_path)) == figures(whole)
    assert attacked == []
    assert [record.getMessage().count("has no checksum") for record in caplog.records] == [1]


def test_any_damage_to_a_batch_is_made_good(tmp_path: Path, attacked: list[str], damage: Any) -> None:
    expected = figures(run(tmp_path))
    path = tmp_path / "batch-fgsm-00001.safetensors"
    whole = path.read_bytes()

    def read() -> bool:
        same = figures(run(tmp_path)) == expected
        path.write_bytes(whole)
        return same

    attacked.clear()
    damage(path, read, 12)
    assert set(attacked) == {"fgsm-1"}
    assert len(attacked) > 10


def test_any_damage_to_the_key_of_an_evaluation_is_told(tmp_path: Path, damage: Any) -> None:
    expected = figures(run(tmp_path))
    assert damage(tmp_path / "meta.json", lambda: figures(run(tmp_path)) == expected, 40) == 40


def test_any_damage_to_saved_examples_is_told(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "examples.safetensors"
    found = run(None, save_examples=path).examples
    expected = load_examples(path)

    def read() -> bool:
        again = load_examples(path)
        same = all(torch.equal(getattr(again, name), getattr(found, name)) for name in ("inputs", "indices", "labels"))
        return same and again.attacks == found.attacks and again.balls == expected.balls

    assert damage(path, read, 300) > 290


def test_an_output_that_is_a_folder_is_refused_before_the_attacks(tmp_path: Path, attacked: list[str]) -> None:
    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        run(None, save_examples=tmp_path)
    assert attacked == []
