"""Periodic adversarial scheduling of epsilon and the learning rate."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="pas",
    trainer="PASTrainer",
    summary="periodic epsilon and learning rate",
    formula="""ε_cos = ½ (1 − cos pπ)(ε_max − ε_min) + ε_min or ε_lin = (ε_max − ε_min) p + ε_min,
    with p = (d − T_{i−1}) / (T_i − T_{i−1}).

    d is the epoch, and T are the epochs of the resets before and after it. Epsilon is at most ``eps``, and the learning
    rate falls with the same resets. A snapshot is kept at each reset; with the last model they make an ensemble.""",
    latex=r"\epsilon_{\cos} = \frac{1}{2} (1 - \cos(p \pi))(\epsilon_{\max} - \epsilon_{\min}) + \epsilon_{\min} \quad "
    r"\text{or} \quad \epsilon_{\mathrm{lin}} = (\epsilon_{\max} - \epsilon_{\min}) p + \epsilon_{\min}, \quad "
    r"p = \frac{d - T_{i-1}}{T_i - T_{i-1}}",
    use="When training at a large eps fails to start: eps grows within each period. The snapshots at the resets "
    "make an ensemble without further training.",
    paper=Paper(
        authors="Liu, Salzmann, Lin, Tomioka, Süsstrunk",
        title="On the loss landscape of adversarial training: identifying challenges and how to overcome them",
        venue="NeurIPS 2020",
        url="https://arxiv.org/abs/2006.08403",
    ),
    attack="pgd",
    objective="adversarial",
    update="plain",
    schedule="periodic",
    defaults={"lr_schedule": "periodic"},
    smoke={"steps": 2},
)
