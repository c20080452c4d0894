"""Adversarial training on several attacks in turn."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="multi_attack",
    trainer="MultiAttackTrainer",
    summary="adversarial training on FGSM, MIM and PGD in turn",
    formula="""min_θ E L(f_θ(x'_k), y),  x'_k from FGSM, MIM and PGD.

    The attack k changes with the batch index, so that each is used equally often.""",
    latex=r"\min_\theta \mathbb{E} \, L(f_\theta(x'_k), y), \quad x'_k \in \{\mathrm{FGSM}(x), "
    r"\mathrm{MIM}(x), \mathrm{PGD}(x)\}",
    use="When the model shall not adapt to one attack. It costs less than pgd, as a third of its batches take one "
    "step. Robust accuracy under AutoAttack is close to that of pgd.",
    paper=Paper(
        authors="Kouvatseas, Lafaye de Micheaux, Neau",
        title="Training robust neural networks",
        venue="course report, 2023",
    ),
    attack="multi_attack",
    objective="adversarial",
    update="plain",
    smoke={"steps": 2},
)
