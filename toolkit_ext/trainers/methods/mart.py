"""MART: misclassified examples weigh more in the divergence term."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="mart",
    trainer="MARTTrainer",
    summary="boosted cross-entropy, divergence weighted by misclassification",
    formula="""min_θ E [BCE(p(x'), y) + λ KL(p(x) ‖ p(x')) (1 − p_y(x))].

    x' comes from PGD (algorithm 1).""",
    latex=r"\min_\theta \mathbb{E} \left[ \mathrm{BCE}(p(x'), y) + \lambda \, \mathrm{KL}(p(x) \,\|\, p(x')) "
    r"(1 - p_y(x)) \right]",
    use="When robust accuracy matters more than clean accuracy and misclassified examples are many. Compare under "
    "AutoAttack: its gain under PGD is larger than its gain there.",
    paper=Paper(
        authors="Wang, Zou, Yi, Bailey, Ma, Gu",
        title="Improving adversarial robustness requires revisiting misclassified examples",
        venue="ICLR 2020",
        url="https://openreview.net/forum?id=rklOg6EFwS",
    ),
    attack="pgd",
    objective="mart",
    update="plain",
    smoke={"steps": 2},
)
