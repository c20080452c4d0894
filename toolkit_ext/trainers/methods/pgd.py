"""Adversarial training on PGD examples."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="pgd",
    trainer="PGDTrainer",
    summary="adversarial training on PGD examples",
    formula="""min_θ E max_{‖δ‖ ≤ eps} L(f_θ(x + δ), y).

    The maximum is approximated by ``steps`` of projected gradient ascent (equation 2.1 of the paper).""",
    latex=r"\min_\theta \mathbb{E} \max_{\|\delta\| \le \epsilon} L(f_\theta(x + \delta), y)",
    use="The default: the reference that other defences are compared with. Ten steps are safe; three to five train "
    "faster at a small loss. On long trainings add awp or weight averaging.",
    paper=Paper(
        authors="Madry, Makelov, Schmidt, Tsipras, Vladu",
        title="Towards deep learning models resistant to adversarial attacks",
        venue="ICLR 2018",
        url="https://arxiv.org/abs/1706.06083",
    ),
    attack="pgd",
    objective="adversarial",
    update="plain",
    smoke={"steps": 2},
)
