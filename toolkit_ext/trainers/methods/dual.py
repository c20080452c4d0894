"""Two optimisers, one for each loss: SGD on the clean term, Adam on the adversarial term."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="dual",
    trainer="DualOptimizerTrainer",
    summary="SGD on the clean loss, Adam on the adversarial loss",
    formula="""θ_{t+1} = θ_t − η ∇L_CE(f(x), y) − γ Adam(∇L_CE(f(x'), y)).

    Both gradients are taken at θ_t, and x' comes from L2-PGD. ``lr`` is η and ``dual_gamma`` is γ; by default η ≫ γ,
    η warms up and γ is constant. The log shows the norms of both gradients, their cosine and the sizes of both
    steps.""",
    latex=r"\theta_{t+1} = \theta_t - \eta \nabla L_{CE}(f(x), y) - \gamma \, \mathrm{Adam}\left(\nabla "
    r"L_{CE}(f(x'), y)\right)",
    use="For research on two optimisers, one for each loss. Its two learning rates need tuning; compare it with "
    "clean_adv, which has the same losses.",
    paper=Paper(
        authors="Lee",
        title="Formulation",
        venue="graduation project, Konkuk University, 2024",
    ),
    attack="pgd",
    objective="clean_adversarial",
    update="dual",
    defaults={"norm": "L2", "eps": 0.5, "warmup_epochs": 1.0},
    smoke={"steps": 2},
)
