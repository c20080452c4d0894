"""Adversarial training with a penalty on the distance of the weights from orthogonality."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="orthogonal",
    trainer="OrthogonalTrainer",
    summary="adversarial cross-entropy plus an orthogonality penalty",
    formula="""min_θ E L(f_θ(x'), y) + λ Σ_W |W Wᵀ − I|.

    The sum is over the weights W of linear and convolution layers.""",
    latex=r"\min_\theta \mathbb{E} \, L(f_\theta(x'), y) + \lambda \sum_W \left| W W^T - I \right|",
    use="As a regulariser of the weights at almost no cost. The penalty needs tuning; alone it does not defend.",
    paper=Paper(
        authors="Brock, Lim, Ritchie, Weston",
        title="Neural photo editing with introspective adversarial networks",
        venue="ICLR 2017",
        url="https://arxiv.org/abs/1609.07093",
    ),
    attack="pgd",
    objective="orthogonal",
    update="plain",
    smoke={"steps": 2},
)
