"""Helper-based adversarial training."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="hat",
    trainer="HATTrainer",
    summary="TRADES plus helper examples with labels of a clean network",
    formula="""min_θ E [L(f_θ(x), y) + β KL(f_θ(x) ‖ f_θ(x')) + γ L(f_θ(x + 2 (x' − x)), argmax g(x'))].

    g is a network trained on clean images (equation 4 of the paper), and x' comes from PGD on the divergence.
    ``hat_helper`` is the checkpoint of g, which the authors train first. Without it g is a copy of the model that
    trains on clean images in the same run, which their code does not have.""",
    latex=r"\min_\theta \mathbb{E} \left[ L(f_\theta(x), y) + \beta \, \mathrm{KL}(f_\theta(x) \,\|\, f_\theta(x')) + "
    r"\gamma \, L\left(f_\theta(x + 2 (x' - x)), \mathrm{argmax} \, g(x')\right) \right]",
    use="When trades costs too much clean accuracy: helper examples keep the margin from growing where it is not "
    "needed. Train a standard network first and give it as hat_helper; a step has one pass more than trades.",
    paper=Paper(
        authors="Rade, Moosavi-Dezfooli",
        title="Reducing excessive margin to achieve a better accuracy vs. robustness trade-off",
        venue="ICLR 2022",
        url="https://openreview.net/forum?id=Azh9QBQ4tR7",
    ),
    attack="tpgd",
    objective="hat",
    update="plain",
    smoke={"steps": 2},
)
