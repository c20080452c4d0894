"""Loss surfaces: values against a closed form, re-attacked points, resuming, ranks, directions and planes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolkit_ext.attacks import FGSM, PGD
from toolkit_ext.errors import UserError
from toolkit_ext.landscape import Plane, figures, filter_normalised, loss_surface, random_direction, through
from toolkit_ext.landscape.adversarial_loss import flat, move_to, split

ATTACK = FGSM(eps=0.1)


def images(n: int = 9) -> tuple[Tensor, Tensor]:
    return 0.3 + 0.4 * torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 3


def linear(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def plane(model: nn.Module) -> Plane:
    return Plane(flat(model), random_direction(model, seed=1), random_direction(model, seed=2))


def test_points_are_attacked_anew() -> None:
    model, (x, y) = linear(), images()
    around = plane(model)
    table = loss_surface(model, ATTACK, x, y, around, [-2, 0, 1], [0, 3], batch_size=4)
    assert list(zip(table["a"], table["b"], strict=True)) == [(a, b) for a in (-2, 0, 1) for b in (0, 3)]
    before = flat(model)
    for row in table.itertuples():
        moved = linear()
        move_to(moved, around.at(float(row.a), float(row.b)))  # type: ignore[arg-type]
        inputs = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(moved(inputs), y), inputs)
        adversarial, clean = moved(x + 0.1 * gradient.sign()).detach(), moved(x).detach()
        assert row.adv_loss == pytest.approx(float(cross_entropy(adversarial, y)), rel=1e-5)
        assert row.clean_loss == pytest.approx(float(cross_entropy(clean, y)), rel=1e-5)
        assert row.adv_error == pytest.approx(float((adversarial.argmax(1) != y).double().mean()))
    assert torch.equal(flat(model), before)
    assert table["adv_loss"].ge(table["clean_loss"]).all()


def test_a_stopped_grid_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = linear(), images()
    around, coordinates = plane(model), [-1.0, 0.0, 1.0]
    attack = PGD(eps=0.1, steps=2)
    whole = loss_surface(model, attack, x, y, around, coordinates, coordinates)
    before, calls = flat(model), 0
    from toolkit_ext.landscape import surface
    from toolkit_ext.landscape.adversarial_loss import measure

    def stopping(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return measure(*arguments, **options)

    monkeypatch.setattr(surface, "measure", stopping)
    with pytest.raises(KeyboardInterrupt):
        loss_surface(model, attack, x, y, around, coordinates, coordinates, folder=tmp_path)
    assert torch.equal(flat(model), before)
    assert len(json.loads((tmp_path / "points-0.json").read_text())["points"]) == 4
    resumed = loss_surface(model, attack, x, y, around, coordinates, coordinates, folder=tmp_path)
    assert calls == 5 + 5
    assert resumed.equals(whole)


def test_ranks_share_a_folder(tmp_path: Path) -> None:
    model, (x, y) = linear(), images()
    arguments: Any = (model, ATTACK, x, y, plane(model), [0.0, 1.0, 2.0], [0.0, 1.0])
    first = loss_surface(*arguments, folder=tmp_path, rank=1, ranks=2)
    both = loss_surface(*arguments, folder=tmp_path, rank=0, ranks=2)
    assert len(first) == 3
    assert both.equals(loss_surface(*arguments))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["points-0.json", "points-1.json"]


@pytest.mark.parametrize("change", ["weights", "seed", "images", "coordinates", "attack", "direction"])
def test_points_of_another_surface_are_refused(tmp_path: Path, change: str) -> None:
    model, (x, y) = linear(), images()
    around = plane(model)
    loss_surface(model, ATTACK, x, y, around, [0.0], folder=tmp_path)
    other = linear(1) if change == "weights" else model
    attack = FGSM(eps=0.2) if change == "attack" else ATTACK
    line = Plane(around.centre, around.first if change != "direction" else -around.first, around.second)
    images_ = x.flip(3) if change == "images" else x
    at = [1.0] if change == "coordinates" else [0.0]
    with pytest.raises(UserError, match="holds the points of another surface"):
        loss_surface(other, attack, images_, y, line, at, folder=tmp_path, seed=int(change == "seed"))


def test_damaged_points_and_bad_ranks_are_told(tmp_path: Path) -> None:
    model = linear()
    (tmp_path / "points-0.json").write_text("{")
    with pytest.raises(UserError, match=r"points-0\.json: is damaged"):
        loss_surface(model, ATTACK, *images(), plane(model), [0.0], folder=tmp_path)
    with pytest.raises(UserError, match="rank: 2 is not allowed; with 2 ranks it must be 0 to 1"):
        loss_surface(model, ATTACK, *images(), plane(model), [0.0], rank=2, ranks=2)
    with pytest.raises(UserError, match="at least one coordinate"):
        loss_surface(model, ATTACK, *images(), plane(model), [])


def test_any_damage_to_finished_points_is_told_or_means_nothing(tmp_path: Path, damage: Any) -> None:
    arguments: Any = (linear(), ATTACK, *images(), plane(linear()), [0.0, 1.0])
    whole = loss_surface(*arguments, folder=tmp_path)
    told = damage(tmp_path / "points-0.json", lambda: loss_surface(*arguments, folder=tmp_path).equals(whole), 60)
    assert told > 55


def test_filters_are_as_long_as_the_models() -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3))
    with torch.no_grad():
        model[0].weight[1].zero_()
    parts = split(model, filter_normalised(model, seed=3))
    for part, weight in zip(parts, model.parameters(), strict=True):
        if weight.ndim > 1:
            torch.testing.assert_close(part.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
        else:
            assert not part.any()
    assert torch.equal(filter_normalised(model, seed=3), filter_normalised(model, seed=3))
    assert not torch.equal(filter_normalised(model, seed=3), filter_normalised(model, seed=4))


def test_plane_through_three_checkpoints() -> None:
    models = [linear(seed) for seed in range(3)]
    found = through(*models)
    assert found.second is not None
    assert float(found.first @ found.second) == pytest.approx(0, abs=1e-5)
    assert float(found.second.norm()) == pytest.approx(float(found.first.norm()), rel=1e-5)
    for model, (_, a, b) in zip(models, found.marks, strict=True):
        torch.testing.assert_close(found.at(a, b), flat(model))


def test_planes_that_are_none_are_refused() -> None:
    first, second = linear(0), linear(1)
    middle = linear()
    move_to(middle, (flat(first) + flat(second)) / 2)
    with pytest.raises(UserError, match="the three lie on one line"):
        through(first, second, middle)
    with pytest.raises(UserError, match="the first and the second have the same weights"):
        through(first, linear(0), second)
    other = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(UserError, match=r"different architectures: 1.weight \[3, 4\] there, 1.weight \[2, 4\] here"):
        through(first, other, second)
    with pytest.raises(UserError, match="different architectures: 2 and 4 weight tensors"):
        through(first, second, nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 3)))


def test_figures_are_written_twice_the_same(tmp_path: Path) -> None:
    model, (x, y) = linear(), images()
    table = loss_surface(model, ATTACK, x, y, plane(model), [0.0, 1.0, 2.0], [0.0, 1.0])
    bytes_ = [figures.plot_surface(table, tmp_path / "a.png", [("1", 0.0, 0.5)]).read_bytes() for _ in range(2)]
    assert bytes_[0] == bytes_[1]
    line = figures.plot_surface(table[table["b"] == 0], tmp_path / "b.svg")
    assert b"adversarial" in line.read_bytes() or line.stat().st_size > 1000
