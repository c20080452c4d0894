"""Robustness curves, what broke what, training from a record, and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from toolkit_ext.errors import UserError
from toolkit_ext.results import (
    Pair,
    Record,
    curves,
    pairs,
    plot_breakdown,
    plot_matrix,
    plot_pairs,
    plot_perturbations,
    plot_robustness,
    plot_training,
    training_log,
)
from toolkit_ext.results.figures.images import draw_pairs, first_broken, matrix

Make = Callable[..., Record]
# Ten images: 0 misclassified, 1 to 3 fall to apgd-ce, 4 to apgd-t, 5 to FGSM alone (the union knows), 6 to 9 hold.
BITS = {
    "clean": "0111111111",
    "aa/apgd-ce": "0000111111",
    "aa/apgd-t": "0000011111",
    "aa": "0000011111",
    "fgsm": "0110101111",
    "union": "0000001111",
}


@pytest.fixture
def broken(make: Make) -> Record:
    """A run with results for each image."""
    packed = {name: np.packbits([bit == "1" for bit in bits]).tobytes().hex() for name, bits in BITS.items()}
    history = [
        {"epoch": e, "loss_clean": 1 / e, "eps": 0.1 * e, "lr": 0.1} | ({"val_clean_acc": 0.9} if e > 1 else {})
        for e in (1, 2)
    ]
    details = {"robust": packed, "training": {"best_epoch": 2, "history": history}}
    return make(n=10, aa_acc=0.5, clean_acc=0.9, details=details)


def _at(make: Make, eps: float, accuracy: float, **given: Any) -> Record:
    return make(run_id=f"r{eps}-{given.get('seed', 0)}", eps=eps, clean_acc=0.9, aa_acc=accuracy, **given)


def test_a_curve_joins_evaluations_of_one_model(make: Make) -> None:
    (curve,) = curves([_at(make, 0.2, 0.3), _at(make, 0.1, 0.6), make("amp", aa_acc=0.5)])
    assert (curve.eps, curve.mean) == ((0.0, 0.1, 0.2), (0.9, 0.6, 0.3))
    assert all(low < mean < high for low, mean, high in zip(curve.low, curve.mean, curve.high, strict=True))
    assert curve.name == "pgd, lenet, trained at 0.1"


def test_a_curve_averages_seeds_and_takes_the_best_evaluation_of_each(make: Make) -> None:
    records = [_at(make, eps, a, seed=s) for eps, s, a in ((0.1, 0, 0.6), (0.1, 1, 0.4), (0.2, 0, 0.3), (0.2, 1, 0.1))]
    small = make(run_id="small", eps=0.1, clean_acc=1.0, aa_acc=1.0, n=10)
    (curve,) = curves([*records, small])
    assert curve.mean == pytest.approx((0.9, 0.5, 0.2))
    assert curve.high[1] - curve.mean[1] == pytest.approx(np.std([0.6, 0.4], ddof=1))
    assert curve.seeds == 2


def test_a_trained_model_and_its_checkpoint_are_one_model(make: Make) -> None:
    parameters = make()["hyper_parameters"] | {"checkpoint": "best"}
    assert len(curves([_at(make, 0.1, 0.6), _at(make, 0.2, 0.3, hyper_parameters=parameters)])) == 1
    last = parameters | {"checkpoint": "last"}
    assert curves([_at(make, 0.1, 0.6), _at(make, 0.2, 0.3, hyper_parameters=last)]) == []


def _with_bits(make: Make, eps: float, bits: str, **given: Any) -> Record:
    """A run whose ten images survive AutoAttack as ``bits`` say; the first is misclassified."""
    rows = {"clean": "0111111111", "aa": bits}
    packed = {name: np.packbits([bit == "1" for bit in row]).tobytes().hex() for name, row in rows.items()}
    found = _at(make, eps, bits.count("1") / 10, n=10, **given)
    return found | {"details": {"robust": packed}}  # type: ignore[return-value]


def test_minimal_perturbations_are_steps_of_each_model(make: Make, tmp_path: Path, drawn: list[Figure]) -> None:
    # Image 5 breaks at 0.1 and, by chance, not at 0.2; it stays broken.
    records = [_with_bits(make, 0.1, "0111101111"), _with_bits(make, 0.2, "0000011111")]
    records += [_with_bits(make, eps, "0111111111", seed=1) for eps in (0.1, 0.2)]
    plot_perturbations(records, tmp_path / "a.png")
    (axes,) = drawn[0].axes
    shown: list[Any] = list(axes.containers)
    assert [each.get_label() for each in shown] == [f"pgd, lenet, trained at 0.1, seed {s}" for s in (0, 1)]
    first, second = (np.asarray(each.lines[0].get_xydata()) for each in shown)
    assert first.tolist() == [[0.0, pytest.approx(10)], [0.1, pytest.approx(20)], [0.2, pytest.approx(60)]]
    assert second[:, 1] == pytest.approx([10, 10, 10])
    assert all(each.lines[0].get_drawstyle() == "steps-post" for each in shown)


def test_counts_of_what_broke_first_add_up(broken: Record) -> None:
    counts = first_broken(broken)
    assert counts == {
        "misclassified": 1,
        "AutoAttack: apgd-ce": 3,
        "AutoAttack: apgd-t": 1,
        "other attacks": 1,
        "robust": 4,
    }
    assert sum(counts.values()) == broken["n_examples"]


def test_the_matrix_has_a_cell_for_each_attack_and_image(broken: Record) -> None:
    names, states = matrix(broken)
    assert names == ["aa/apgd-ce", "aa/apgd-t", "aa", "fgsm"]
    assert states.shape == (4, 10)
    assert (states[:, 0] == 2).all()
    assert [(row == 1).sum() for row in states] == [3, 4, 4, 2]
    falls = (states > 0).sum(axis=0)
    assert (np.diff(falls) <= 0).all()


def test_training_from_a_record(make: Make, broken: Record, tmp_path: Path) -> None:
    log = training_log(broken)
    assert log["epoch"].tolist() == [1, 2]
    with pytest.raises(UserError, match=r"^run pgd-0: has no training history"):
        training_log(make())
    assert plot_training(log, tmp_path / "a.png").stat().st_size > 5000


def _pairs() -> list[Pair]:
    clean = np.full((3, 1, 4, 4), 0.5, dtype=np.float32)
    adversarial = clean.copy()
    adversarial[1, 0, 0, 0], adversarial[2, 0, 1, 1] = 0.6, 0.45
    return pairs(clean, adversarial, [(0, 1, "clean"), (1, 0, "pgd20"), (0, 7, "aa/square")], ["cat", "dog"])


def test_pairs_and_their_amplified_difference() -> None:
    found = _pairs()
    assert [(pair.label, pair.prediction, pair.attack) for pair in found] == [
        ("dog", "cat", "pgd20"),
        ("cat", "7", "aa/square"),
    ]
    axes = draw_pairs(found).axes
    shown = [np.asarray(a.images[0].get_array()) for a in axes]
    assert shown[4][0, 0] == pytest.approx(1.0)
    assert shown[5][1, 1] == pytest.approx(0.25)
    assert axes[4].get_ylabel() == "difference × 5"
    assert axes[3].get_title() == "seen as 7"


def test_same_bytes_twice(make: Make, broken: Record, tmp_path: Path) -> None:
    evaluated = [_at(make, 0.2, 0.3), _at(make, 0.1, 0.6)]
    single = [_with_bits(make, 0.1, "0111101111"), _with_bits(make, 0.2, "0000011111")]
    drawings: dict[str, Callable[[Path], Path]] = {
        "curve": lambda path: plot_robustness(evaluated, path),
        "perturbations": lambda path: plot_perturbations(single, path),
        "breakdown": lambda path: plot_breakdown([broken], path),
        "matrix": lambda path: plot_matrix(broken, path),
        "pairs": lambda path: plot_pairs(_pairs(), path),
    }
    for name, draw in drawings.items():
        first, second = (draw(tmp_path / f"{name}-{i}.png").read_bytes() for i in (1, 2))
        assert first == second
        assert len(first) > 5000


def test_figures_of_nothing(make: Make, tmp_path: Path) -> None:
    cases: list[tuple[Callable[[Path], Path], str]] = [
        (lambda path: plot_robustness([make()], path), "no model has aa_acc at two eps"),
        (lambda path: plot_perturbations([make()], path), "no model has results of aa for each image at two eps"),
        (lambda path: plot_breakdown([make()], path), "no run has results for each image"),
        (lambda path: plot_matrix(make(), path), "^run pgd-0: has no results for each image"),
        (lambda path: plot_pairs([], path), "^examples: there is no adversarial example"),
    ]
    for draw, message in cases:
        with pytest.raises(UserError, match=message):
            draw(tmp_path / "a.png")
    l2 = {"name": "p", "norm": "L2", "version": "standard"}
    other = [_at(make, e, 0.5, protocol=l2 | {"eps": e}) | {"run_id": f"l2-{e}"} for e in (0.5, 1.0)]
    with pytest.raises(UserError, match=r"^--where: the curves are of digits L2, digits Linf"):
        plot_robustness([_at(make, 0.2, 0.3), _at(make, 0.1, 0.6), *other], tmp_path / "a.png")
    bits = "0111101111"
    apart = [
        _with_bits(make, e, bits, backbone=make()["backbone"] | {"name": n}) for n in ("a", "b") for e in (0.1, 0.2)
    ]
    apart[2:] = [one | {"data": one["data"] | {"name": "mnist"}} for one in apart[2:]]
    with pytest.raises(UserError, match=r"^--where: the curves are of digits Linf, mnist Linf; choose one"):
        plot_perturbations(apart, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
