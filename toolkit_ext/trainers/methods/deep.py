"""Deep adversarial training: the input and every chosen hidden layer are perturbed."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="deep",
    trainer="DeepTrainer",
    summary="every layer perturbed, found by conjugate gradient",
    formula="""min_w E max_d c(y, h(w, x, d)) + Σ_ℓ ρ_ℓ(d_ℓ),  n_ℓ = f_ℓ(w_ℓ n_{ℓ−1}) + d_ℓ.

    These are equations 6 and 8. The maximum is found by nonlinear conjugate gradient, with one forward and one backward
    pass for the gradient of all unknowns: over the perturbations d, or, with ``deep_variables="neurons"``, over the
    neurons n, where the layers decouple (equation 11). Both have the same maximiser; ``Deep`` says how they differ.""",
    latex=r"\min_w \mathbb{E} \max_d \; c(y, h(w, x, d)) + \sum_\ell \rho_\ell(d_\ell), \quad n_\ell = "
    r"f_\ell(w_\ell n_{\ell - 1}) + d_\ell",
    use="For research on perturbations of hidden layers. By default a training step costs a little more than one of "
    "PGD-10. It is no first choice for a defence.",
    paper=Paper(
        authors="Chinchilla",
        title="Deep adversarial training",
        venue="technical note, 2020",
    ),
    attack="deep",
    objective="adversarial",
    update="plain",
    smoke={"deep_steps": 2},
)
