"""FGSM training with aligned input gradients."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="grad_align",
    trainer="GradAlignTrainer",
    summary="FGSM training plus a penalty on misaligned input gradients",
    formula="""min_θ E [L(f_θ(x'), y) + λ (1 − cos(∇_x L(f_θ(x), y), ∇_x L(f_θ(x + η), y)))],  η ~ U(−eps, eps).

    x' comes from FGSM, and the penalty takes double back-propagation (section 4 of the paper). The authors reuse FGSM's
    gradient at x for the penalty; here it is computed anew with the batch norm of training, which costs a pass.""",
    latex=r"\min_\theta \mathbb{E} \left[ L(f_\theta(x'), y) + \lambda \left(1 - \cos\left(\nabla_x L(f_\theta(x), y), "
    r"\nabla_x L(f_\theta(x + \eta), y)\right)\right) \right], \quad \eta \sim U(-\epsilon, \epsilon)",
    use="When single-step training overfits catastrophically and n_fgsm does not help. Double back-propagation makes a "
    "step about three times as expensive as one of fgsm, and takes memory.",
    paper=Paper(
        authors="Andriushchenko, Flammarion",
        title="Understanding and improving fast adversarial training",
        venue="NeurIPS 2020",
        url="https://arxiv.org/abs/2007.02617",
    ),
    attack="fgsm",
    objective="grad_align",
    update="plain",
    defaults={"lr_schedule": "onecycle"},
)
