"""TRADES with adversarial weight perturbation."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="trades_awp",
    trainer="TRADESAWPTrainer",
    summary="TRADES, its weights perturbed adversarially",
    formula="""min_θ max_{‖v_l‖ ≤ γ‖θ_l‖} E [L(f_{θ+v}(x), y) + β KL(f_{θ+v}(x) ‖ f_{θ+v}(x'))].

    x' comes from PGD on the divergence (equation 7 of the paper with the TRADES loss). The authors' code begins to
    perturb weights after 10 epochs, and decays the perturbed weights; here every step perturbs, and weight decay is
    at θ.""",
    latex=r"\min_\theta \max_{\|v_l\| \le \gamma \|\theta_l\|} \mathbb{E} \left[ L(f_{\theta + v}(x), y) + \beta \, "
    r"\mathrm{KL}(f_{\theta + v}(x) \,\|\, f_{\theta + v}(x')) \right]",
    use="For the highest robust accuracy on long trainings without extra data: it overfits later than trades. A step "
    "costs about two passes more than trades.",
    paper=Paper(
        authors="Wu, Xia, Wang",
        title="Adversarial weight perturbation helps robust generalization",
        venue="NeurIPS 2020",
        url="https://arxiv.org/abs/2004.05884",
    ),
    attack="tpgd",
    objective="trades",
    update="awp",
    smoke={"steps": 2},
)
