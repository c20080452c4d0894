"""Sharpness-aware minimisation."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="sam",
    trainer="SAMTrainer",
    summary="gradient at the worst weights of a ball, to first order",
    formula="""min_θ max_{‖Δ‖₂ ≤ ρ} E L(f_{θ+Δ}(x), y),  Δ = ρ ∇_θ L / ‖∇_θ L‖₂.

    This Δ approximates the maximum (equation 2 of the paper). The inputs are clean; with
    ``attack="pgd", objective="adversarial"`` it is sharpness-aware adversarial training.""",
    latex=r"\min_\theta \max_{\|\Delta\|_2 \le \rho} \mathbb{E} \, L(f_{\theta + \Delta}(x), y), \quad "
    r"\Delta = \rho \, \frac{\nabla_\theta L}{\|\nabla_\theta L\|_2}",
    use="For clean accuracy at twice the cost of standard training. Alone it does not defend; for robust accuracy "
    "combine it with an attack, and compare with awp, which scales the ball to each layer.",
    paper=Paper(
        authors="Foret, Kleiner, Mobahi, Neyshabur",
        title="Sharpness-aware minimization for efficiently improving generalization",
        venue="ICLR 2021",
        url="https://arxiv.org/abs/2010.01412",
    ),
    attack="none",
    objective="clean",
    update="sam",
)
