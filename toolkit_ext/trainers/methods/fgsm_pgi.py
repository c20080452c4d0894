"""FGSM training from a start that the attack remembers for every example."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="fgsm_pgi",
    trainer="FGSMPGITrainer",
    summary="FGSM training from remembered perturbations",
    formula="""min_θ E [L(f_θ(x + δ), y) + λ ‖f_θ(x + δ) − f_θ(x + η)‖² / K],  δ = Π(η + eps sign g_c),
    with g_c = ∇_x L(f_θ(x + η), y);  g ← μ g + g_c,  η ← Π(η + eps sign g).

    The attack remembers the momentum g and the start η of each example from its last visit (the variant FGSM-MEP of the
    paper). ``PriorGuidedFGSM`` and ``PriorGuidedLoss`` say how they differ from the authors' code.""",
    latex=r"\min_\theta \mathbb{E} \left[ L(f_\theta(x + \delta), y) + \frac{\lambda}{K} \left\| f_\theta(x + \delta) "
    r"- f_\theta(x + \eta) \right\|^2 \right], \quad \delta = \Pi\left(\eta + \epsilon \, \mathrm{sign} \, g_c\right), "
    r"\quad g_c = \nabla_x L(f_\theta(x + \eta), y), \quad g \leftarrow \mu g + g_c, \quad \eta \leftarrow "
    r"\Pi(\eta + \epsilon \, \mathrm{sign} \, g)",
    use="For single-step training of tens of epochs, over which its memory pays. It keeps two images for each training "
    "example, on the device and in every checkpoint (1.2 GB for CIFAR-10), so it is not for large data sets.",
    paper=Paper(
        authors="Jia, Zhang, Wei, Wu, Ma, Wang, Cao",
        title="Prior-guided adversarial initialization for fast adversarial training",
        venue="ECCV 2022",
        url="https://arxiv.org/abs/2207.08859",
    ),
    attack="fgsm_pgi",
    objective="fgsm_pgi",
    update="plain",
)
