"""One optimiser on the sum of the clean and the adversarial cross-entropy."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="clean_adv",
    trainer="CleanAdvTrainer",
    summary="clean plus adversarial cross-entropy, one optimiser",
    formula="""min_θ E [L(f_θ(x), y) + L(f_θ(x'), y)].

    It is the counterpart of ``dual`` with a single optimiser.""",
    latex=r"\min_\theta \mathbb{E} \left[ L(f_\theta(x), y) + L(f_\theta(x'), y) \right]",
    use="When clean accuracy matters as much as robustness, and as the control of dual: the same two losses with "
    "one optimiser. For the highest robust accuracy use pgd or trades.",
    paper=Paper(
        authors="Goodfellow, Shlens, Szegedy",
        title="Explaining and harnessing adversarial examples",
        venue="ICLR 2015, section 6",
        url="https://arxiv.org/abs/1412.6572",
    ),
    attack="pgd",
    objective="clean_adversarial",
    update="plain",
    smoke={"steps": 2},
)
