"""Bezier curves between checkpoints, and the logs of several trainings side by side."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from toolkit_ext.attacks import FGSM
from toolkit_ext.errors import UserError
from toolkit_ext.landscape import (
    Curve,
    batch_gradients,
    diagnostics,
    line,
    loss_and_error,
    scan,
    train_curve,
    training_diagnostics,
)
from toolkit_ext.landscape.adversarial_loss import flat

ATTACK = FGSM(eps=0.05)


def images(n: int = 60) -> tuple[Tensor, Tensor]:
    """Two classes that a network must bend for: whether two pixels are alike."""
    x = torch.rand(n, 1, 1, 2, generator=torch.Generator().manual_seed(1)).round() * 0.8 + 0.1
    return x, (x[:, 0, 0, 0] == x[:, 0, 0, 1]).long()


def network(seed: int = 0, norm: bool = False) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(2, 16), nn.BatchNorm1d(16) if norm else nn.Identity(), nn.Tanh(), nn.Linear(16, 2)
    )


def trained(seed: int, norm: bool = False) -> Any:
    model, (x, y) = network(seed, norm), images()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(120):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def test_curve_is_a_bezier_curve() -> None:
    curve = Curve(torch.tensor([[0.0, 0], [1, 2], [2, 0]]))
    for t in (0.0, 0.25, 0.5, 1.0):
        expected = (1 - t) ** 2 * curve.points[0] + 2 * t * (1 - t) * curve.points[1] + t**2 * curve.points[2]
        torch.testing.assert_close(curve.at(t), expected)
        assert float(curve.coefficients(t).sum()) == pytest.approx(1)
    torch.testing.assert_close(curve.straight.at(0.25), torch.tensor([0.5, 0]))


def test_untrained_curve_is_the_straight_line() -> None:
    first, second = network(0), network(1)
    for t in (0.0, 0.3, 1.0):
        torch.testing.assert_close(line(first, second, 3).at(t), torch.lerp(flat(first), flat(second), t))


def test_training_lowers_the_barrier_and_leaves_the_ends() -> None:
    first, second = trained(0), trained(1)
    ends = flat(first), flat(second)
    x, y = images()
    curve = train_curve(first, second, ATTACK, x, y, degree=2, epochs=60, batch_size=20, lr=0.1)
    assert torch.equal(curve.points[0], ends[0])
    assert torch.equal(curve.points[-1], ends[1])
    assert torch.equal(flat(first), ends[0])
    assert torch.equal(flat(second), ends[1])
    on_curve, straight = (scan(first, path, ATTACK, x, y, x_statistics=x, points=9) for path in (curve, curve.straight))
    assert on_curve["adv_loss"].max() < 0.5 * straight["adv_loss"].max()
    for end in (0, 8):
        assert on_curve["adv_loss"][end] == pytest.approx(straight["adv_loss"][end], rel=1e-5)
    assert on_curve["clean_loss"][0] == pytest.approx(loss_and_error(first, x, y)[0], rel=1e-5)


def test_statistics_are_recomputed_and_put_back() -> None:
    first, second = trained(0, norm=True).eval(), trained(1, norm=True).eval()
    before = copy.deepcopy(first.state_dict())
    x, y = images()
    table = scan(first, line(first, second), ATTACK, x, y, x_statistics=x, points=3, batch_size=len(y))
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())
    assert not first.training
    # With the statistics of the images themselves, evaluation is the training mode's forward pass on all of them
    # (but for the variance, which the running statistics take with n - 1).
    middle = copy.deepcopy(first).train()
    with torch.no_grad():
        for weight, other in zip(middle.parameters(), second.parameters(), strict=True):
            weight.lerp_(other, 0.5)
        expected = nn.functional.cross_entropy(middle(x), y)
    assert table["clean_loss"][1] == pytest.approx(float(expected), rel=0.02)


def test_same_seed_same_curve() -> None:
    first, second = network(0, norm=True), network(1, norm=True)
    curves = [train_curve(first, second, ATTACK, *images(), epochs=1, seed=4) for _ in range(2)]
    assert torch.equal(curves[0].points, curves[1].points)
    assert not torch.equal(curves[0].points[1], line(first, second, 2).points[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degree": 1}, "degree: 1 is not allowed; at least 2"),
        ({"epochs": 0}, "epochs: 0 is not allowed"),
        ({"lr": 0}, "lr: 0 is not allowed"),
        ({"lr": 1e38, "epochs": 3}, "lr: the loss on the curve is not finite"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_curve(network(0), network(1), ATTACK, *images(), **options)


def test_ends_of_other_architectures_are_refused() -> None:
    with pytest.raises(UserError, match="of different architectures"):
        line(network(0), nn.Linear(2, 2))
    with pytest.raises(UserError, match="points: 1 is not allowed"):
        scan(network(0), line(network(0), network(1)), ATTACK, *images(), x_statistics=images()[0], points=1)


def log(path: Path, **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_logs_of_several_runs(tmp_path: Path) -> None:
    first = log(tmp_path / "a" / "log.csv", epoch=[1, 2], grad_norm=[3.0, 1.0], distance=[0.5, 0.8])
    (tmp_path / "a" / "best").mkdir()
    rows: dict[str, list[Any]] = {"epoch": [1], "grad_norm": [2.0], "distance": [0.1], "train_pgd_acc": [0.75]}
    second = log(tmp_path / "b.csv", **rows, eps=[0.1])
    table = training_diagnostics({"none": first.parent / "best", "0.1": second})
    assert table["run"].tolist() == ["none", "none", "0.1"]
    assert table["grad_norm"].tolist() == [3.0, 1.0, 2.0]
    assert table["robust_train_error"].tolist()[2] == 0.25
    assert table["robust_train_error"].isna().tolist() == [True, True, False]
    assert diagnostics.plot_diagnostics(table, tmp_path / "x.png").stat().st_size > 1000


def test_what_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="runs: none is given"):
        training_diagnostics({})
    with pytest.raises(UserError, match=r"there is no log\.csv"):
        training_diagnostics({"a": tmp_path / "nothing"})
    with pytest.raises(UserError, match="with the columns epoch, grad_norm, distance"):
        training_diagnostics({"a": log(tmp_path / "log.csv", epoch=[1])})


def test_gradients_of_the_first_and_last_batches(tmp_path: Path) -> None:
    for name in ("a", "b", "old"):
        log(tmp_path / name / "log.csv", epoch=[1], grad_norm=[1.0], distance=[1.0])
    log(tmp_path / "a" / "gradients.csv", batch=[0, 1, 8, 9], grad_norm=[4.0, 3.0, 2.0, 1.0])
    log(tmp_path / "b" / "gradients.csv", batch=[0, 1, 2], grad_norm=[1.0, 1.0, 1.0])
    table = batch_gradients({name: tmp_path / name for name in ("a", "b", "old")})
    assert table.query("run == 'a'").drop(columns="run").values.tolist() == [
        ["first", 0, 4.0],
        ["first", 1, 3.0],
        ["last", 8, 2.0],
        ["last", 9, 1.0],
    ]
    assert table.query("run == 'b'")["part"].tolist() == ["first", "last", "last"]
    assert "old" not in set(table["run"])
    assert diagnostics.plot_gradients(table, tmp_path / "x.png").stat().st_size > 1000
    log(tmp_path / "b" / "gradients.csv", batch=[0])
    with pytest.raises(UserError, match="with the columns batch and grad_norm"):
        batch_gradients({"b": tmp_path / "b"})


def test_a_run_looks_the_same_in_every_panel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn = []
    monkeypatch.setattr(diagnostics, "save", lambda figure, path: drawn.append(figure))
    columns = {"epoch": [1, 1], "grad_norm": [2.0, 1.0], "distance": [1.0, 2.0]}
    table = pd.DataFrame({"run": ["clean", "robust"], **columns, "robust_train_error": [float("nan"), 0.5]})
    diagnostics.plot_diagnostics(table, tmp_path / "x.png")
    looks = [{line.get_label(): line.get_color() for line in axes.get_lines()} for axes in drawn[0].axes]
    assert [set(look) for look in looks] == [{"clean", "robust"}, {"clean", "robust"}, {"robust"}]
    assert looks[0]["clean"] != looks[0]["robust"]
    assert looks[2]["robust"] == looks[1]["robust"] == looks[0]["robust"]
