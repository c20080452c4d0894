"""Adversarial training with a penalty on the input gradient."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="gradient_reg",
    trainer="GradientRegTrainer",
    summary="adversarial cross-entropy plus an input-gradient penalty",
    formula="""min_θ E [L(f_θ(x'), y) + λ ‖∇_x L(f_θ(x'), y)‖_p²].

    The gradient of the penalty takes double back-propagation.""",
    latex=r"\min_\theta \mathbb{E} \left[ L(f_\theta(x'), y) + \lambda \left\| \nabla_x L(f_\theta(x'), y) "
    r"\right\|_p^2 \right]",
    use="As a regulariser of adversarial training when gradients are noisy. The penalty needs double back- "
    "propagation, and so about two passes more a step.",
    paper=Paper(
        authors="Ross, Doshi-Velez",
        title="Improving the adversarial robustness and interpretability of deep neural networks "
        "by regularizing their input gradients",
        venue="AAAI 2018",
        url="https://arxiv.org/abs/1711.09404",
    ),
    attack="pgd",
    objective="gradient_penalty",
    update="plain",
    smoke={"steps": 2},
)
