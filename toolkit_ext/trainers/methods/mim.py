"""Adversarial training on momentum iterative examples."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="mim",
    trainer="MIMTrainer",
    summary="adversarial training on MIM examples",
    formula="""g ← μ g + ∇_x L / ‖∇_x L‖₁,  x' ← Π(x' + alpha sign g),  min_θ E L(f_θ(x'), y).

    x' comes from MI-FGSM; ``decay`` is μ.""",
    latex=r"g \leftarrow \mu g + \frac{\nabla_x L}{\|\nabla_x L\|_1}, \quad x' \leftarrow \Pi(x' + \alpha \, "
    r"\mathrm{sign} \, g), \quad \min_\theta \mathbb{E} \, L(f_\theta(x'), y)",
    use="When examples of a momentum attack are wanted, for instance against transferred attacks. Its cost is that "
    "of pgd, and so, mostly, are its results.",
    paper=Paper(
        authors="Dong, Liao, Pang, Su, Zhu, Hu, Li",
        title="Boosting adversarial attacks with momentum",
        venue="CVPR 2018",
        url="https://arxiv.org/abs/1710.06081",
    ),
    attack="mim",
    objective="adversarial",
    update="plain",
    smoke={"steps": 2},
)
