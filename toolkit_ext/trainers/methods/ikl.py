"""Adversarial training with the improved Kullback-Leibler divergence."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="ikl",
    trainer="IKLTrainer",
    summary="TRADES with a divergence that is decoupled into two parts",
    formula="""min_θ E [L(f_θ(x), y) − α p(x)ᵀ log p(x') + β/4 Σ_{jk} w_j w_k (Δ_jk(x) − Δ_jk(x'))²],  Δ_jk = f_j − f_k.

    w is the mean prediction of the class of x, and p(x) is a constant in the second term (the IKL loss of the paper).
    x' comes from PGD on the divergence.

    The authors' eps grows linearly over the whole training (``schedule="warmup"``), and their attack takes two to five
    steps; ``ImprovedKL`` has one difference more.""",
    latex=r"\min_\theta \mathbb{E} \left[ L(f_\theta(x), y) - \alpha \, p(x)^T \log p(x') + \frac{\beta}{4} \sum_{j,k} "
    r"w_j w_k \left(\Delta_{jk}(x) - \Delta_{jk}(x')\right)^2 \right], \quad \Delta_{jk} = f_j - f_k",
    use="Where trades is used, at its cost: the squared differences keep a gradient where the divergence has none. "
    "Best with awp and weight averaging; its two weights are tuned for CIFAR.",
    paper=Paper(
        authors="Cui, Tian, Zhong, Qi, Yu, Zhang",
        title="Decoupled Kullback-Leibler divergence loss",
        venue="NeurIPS 2024",
        url="https://arxiv.org/abs/2305.13948",
    ),
    attack="tpgd",
    objective="ikl",
    update="plain",
    smoke={"steps": 2},
)
