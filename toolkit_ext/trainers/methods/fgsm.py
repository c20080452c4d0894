"""Adversarial training on single-step examples."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="fgsm",
    trainer="FGSMTrainer",
    summary="adversarial training on FGSM examples",
    formula="""min_θ E L(f_θ(x'), y),  x' = clip(x + eps sign ∇_x L(f_θ(x), y)).

    Without a random start the examples can collapse (catastrophic overfitting); the alarm of the same name says so.""",
    latex=r"\min_\theta \mathbb{E} \, L(f_\theta(x'), y), \quad x' = \mathrm{clip}\left(x + \epsilon \, "
    r"\mathrm{sign} \nabla_x L(f_\theta(x), y)\right)",
    use="As a baseline, or at small eps. At usual eps it often overfits catastrophically: fast has the same cost "
    "and is safer.",
    paper=Paper(
        authors="Goodfellow, Shlens, Szegedy",
        title="Explaining and harnessing adversarial examples",
        venue="ICLR 2015",
        url="https://arxiv.org/abs/1412.6572",
    ),
    attack="fgsm",
    objective="adversarial",
    update="plain",
)
