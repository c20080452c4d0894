"""Adaptive sharpness-aware minimisation."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="asam",
    trainer="ASAMTrainer",
    summary="SAM in a ball that follows the size of each weight",
    formula="""min_θ max_{‖T⁻¹ Δ‖₂ ≤ ρ} E L(f_{θ+Δ}(x), y),  Δ = ρ T² ∇_θ L / ‖T ∇_θ L‖₂,  T = |θ| + η.

    T has an entry for each weight, and this Δ approximates the maximum (algorithm 1 of the paper). As in the authors'
    code, T = 1 for biases.""",
    latex=r"\min_\theta \max_{\|T^{-1} \Delta\|_2 \le \rho} \mathbb{E} \, L(f_{\theta + \Delta}(x), y), \quad "
    r"\Delta = \rho \, \frac{T^2 \nabla_\theta L}{\|T \nabla_\theta L\|_2}, \quad T = |\theta| + \eta",
    use="As sam, where the weights of layers differ much in size: its ball stays the same when a layer is scaled up "
    "and the next one down. Its radius is about ten times that of sam.",
    paper=Paper(
        authors="Kwon, Kim, Park, Choi",
        title="ASAM: adaptive sharpness-aware minimization for scale-invariant learning of deep neural networks",
        venue="ICML 2021",
        url="https://arxiv.org/abs/2102.11600",
    ),
    attack="none",
    objective="clean",
    update="asam",
)
