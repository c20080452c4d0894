"""Single-step adversarial training from a random start."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="fast",
    trainer="FastTrainer",
    summary="adversarial training on random-start FGSM examples",
    formula="""min_θ E L(f_θ(x'), y),  x' = Π(x + u + 1.25 eps sign ∇_x L(f_θ(x + u), y)).

    u is uniform in the Linf ball (algorithm 3 of the paper).""",
    latex=r"\min_\theta \mathbb{E} \, L(f_\theta(x'), y), \quad x' = \Pi\left(x + u + 1.25 \epsilon \, "
    r"\mathrm{sign} \nabla_x L(f_\theta(x + u), y)\right)",
    use="When the budget is a few epochs: about a fifth of the cost of PGD-10 training. Watch for the alarm of "
    "catastrophic overfitting; above eps 8/255 prefer pgd with few steps.",
    paper=Paper(
        authors="Wong, Rice, Kolter",
        title="Fast is better than free: revisiting adversarial training",
        venue="ICLR 2020",
        url="https://arxiv.org/abs/2001.03994",
    ),
    attack="fast",
    objective="adversarial",
    update="plain",
    defaults={"lr_schedule": "onecycle"},
)
