"""Adversarial model perturbation: descend from the worst weights nearby."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="amp",
    trainer="AMPTrainer",
    summary="adversarial model perturbation",
    formula="""Δ ← Π(Δ + ζ ∇_θ L(θ + Δ)) in ‖Δ‖₂ ≤ ε, N times from 0; then θ ← θ − η ∇_θ L(θ + Δ).

    Δ takes N steps before θ takes one (algorithm 1). The paper's loss is the clean one; with
    ``objective="adversarial", attack="pgd"`` it is a partner of adversarial training.""",
    latex=r"\Delta \leftarrow \Pi_{\|\Delta\|_2 \le \epsilon}\left(\Delta + \zeta \nabla_\theta L(\theta + "
    r"\Delta)\right), \quad \theta \leftarrow \theta - \eta \nabla_\theta L(\theta + \Delta)",
    use="For accuracy on clean images without robustness: it flattens the minimum at the price of a second pass. "
    "Alone it does not defend against attacks; combine it with an attack and an adversarial objective for "
    "that.",
    paper=Paper(
        authors="Zheng, Zhang, Mao",
        title="Regularizing neural networks via adversarial model perturbation",
        venue="CVPR 2021",
        url="https://arxiv.org/abs/2010.04925",
    ),
    attack="none",
    objective="clean",
    update="amp",
)
