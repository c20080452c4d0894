"""The curvature of the adversarial loss, and how much adversarial examples move with the weights."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit_ext.attacks import PGD
from toolkit_ext.claims.probe import Found, Probe, Trained
from toolkit_ext.landscape import perturbation_similarity, random_direction
from toolkit_ext.landscape.subject import Subject


def _subject(trained: Trained, n: int, eps: float | None = None) -> Subject:
    given = trained.experiment.hyper_parameters
    attack = PGD(eps=given["eps"] if eps is None else eps, norm=given.get("norm", "Linf"), steps=10)
    data = trained.dataset
    test = data.x_test[:n], data.y_test[:n]
    return Subject(
        [trained.model("last")], attack, data.x_train[:n], data.y_train[:n], *test, seed=trained.experiment.seed
    )


def hessian(n: int, tol: float = 1e-2) -> Probe:
    """``eigenvalue``: the largest of the Hessian of the adversarial loss of ``n`` training images."""

    def probe(trained: Trained) -> Found:
        pairs = _subject(trained, n).eigenpairs(1, tol)
        facts = {"eigenvalue": float(pairs.values[0]), "residual": float(pairs.residuals[0])}
        return Found({**facts, "converged": bool(pairs.converged[0]), "images": n})

    return probe


def similarity(n: int, distances: Sequence[float], tol: float = 1e-2) -> Probe:
    """``cosine_eigenvector_<a>``, ``cosine_random_<a>``: mean cosine of the perturbations at θ ± av, v of length 1.

    With the robust error at the same places, as ``robust_eigenvector_<a>_err``, and the top ``eigenvalue``.
    """

    def probe(trained: Trained) -> Found:
        subject = _subject(trained, n)
        pairs = subject.eigenpairs(1, tol)
        directions = {
            "eigenvector": pairs.vectors[0],
            "random": random_direction(subject.model, seed=trained.experiment.seed),
        }
        facts = {"eigenvalue": float(pairs.values[0]), "residual": float(pairs.residuals[0]), "images": float(n)}
        for name, direction in directions.items():
            table = perturbation_similarity(
                subject.model, subject.attack, subject.x, subject.y, direction, distances, x_test=subject.x_test,
                y_test=subject.y_test, seed=trained.experiment.seed,
            )  # fmt: skip
            for a, cosine, error in zip(distances, table["cosine"], table["robust_error"], strict=True):
                facts |= {f"cosine_{name}_{a:g}": float(cosine), f"robust_{name}_{a:g}_err": float(error)}
        return Found(facts)

    return probe
