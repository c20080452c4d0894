"""Adversarial training with the generalised Kullback-Leibler divergence."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="gkl",
    trainer="GKLTrainer",
    summary="IKL with flatter weights of the classes",
    formula="""min_θ E [L(f_θ(x), y) − α p(x)ᵀ log p(x') + β/4 Σ_{jk} w_j w_k (Δ_jk(x) − Δ_jk(x'))²],  w = s_y^γ.

    It is ``ikl`` with other weights: s_y is the mean prediction of the class of x, and ``ikl_gamma`` is γ. The third
    term is divided by the mean of (Σ_j w_j)² over the batch. At γ = 1 and temperature 4 it is ``ikl``.""",
    latex=r"\min_\theta \mathbb{E} \left[ L(f_\theta(x), y) - \alpha \, p(x)^T \log p(x') + \frac{\beta}{4} \sum_{j,k} "
    r"w_j w_k \left(\Delta_{jk}(x) - \Delta_{jk}(x')\right)^2 \right], \quad w = s_y^\gamma",
    use="As ikl, when predictions become so certain that its weights look at one class alone. It has a number more to "
    "tune, so try ikl first.",
    paper=Paper(
        authors="Cui, Zhu, Xu, Tian, Qi, Yu, Zhang, Hong",
        title="Generalized Kullback-Leibler divergence loss",
        venue="arXiv 2025",
        url="https://arxiv.org/abs/2503.08038",
    ),
    attack="tpgd",
    objective="ikl",
    update="plain",
    defaults={"ikl_gamma": 0.2, "ikl_temperature": 1.0},
    smoke={"steps": 2},
)
