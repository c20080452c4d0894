"""Adversarial weight perturbation on top of PGD training."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="awp",
    trainer="AWPTrainer",
    summary="PGD training at adversarially perturbed weights",
    formula="""min_θ max_{‖v_l‖ ≤ γ ‖θ_l‖} E max_{‖x' − x‖ ≤ eps} L(f_{θ+v}(x'), y).

    v takes one normalised ascent step in each layer l (section 4).""",
    latex=r"\min_\theta \max_{\|v_l\| \le \gamma \|\theta_l\|} \mathbb{E} \max_{\|x' - x\| \le \epsilon} "
    r"L(f_{\theta + v}(x'), y)",
    use="When PGD training overfits: robust accuracy on validation data falls after the learning rate drops. It "
    "costs about one pass more a step. On short trainings that do not overfit it gains little.",
    paper=Paper(
        authors="Wu, Xia, Wang",
        title="Adversarial weight perturbation helps robust generalization",
        venue="NeurIPS 2020",
        url="https://arxiv.org/abs/2004.05884",
    ),
    attack="pgd",
    objective="adversarial",
    update="awp",
    smoke={"steps": 2},
)
