"""Standard training on clean inputs, the baseline of every comparison."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="standard",
    trainer="StandardTrainer",
    summary="cross-entropy on clean inputs",
    formula="min_θ E L(f_θ(x), y).",
    latex=r"\min_\theta \mathbb{E} \, L(f_\theta(x), y)",
    use="As the baseline without any defence, or to fine-tune before adversarial training. Its accuracy under "
    "AutoAttack is near zero at usual eps.",
    paper=Paper(
        authors="Bottou",
        title="Large-scale machine learning with stochastic gradient descent",
        venue="COMPSTAT 2010",
        url="https://doi.org/10.1007/978-3-7908-2604-3_16",
    ),
    attack="none",
    objective="clean",
    update="plain",
)
