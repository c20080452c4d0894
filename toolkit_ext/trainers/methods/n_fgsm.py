"""Single-step adversarial training with strong noise and without projection."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="n_fgsm",
    trainer="NFGSMTrainer",
    summary="adversarial training on FGSM examples of noisy inputs",
    formula="""min_θ E L(f_θ(x'), y),  x' = clip(x + η + eps sign ∇_x L(f_θ(x + η), y)),  η ~ U(−2 eps, 2 eps).

    This is N-FGSM of the paper. The sum is clipped to [0, 1] and not to the ball of radius eps.

    The authors let eps grow over the first epochs on SVHN alone (``schedule="warmup"``) and take the gradient in
    training mode (``craft_mode="train"``).""",
    latex=r"\min_\theta \mathbb{E} \, L(f_\theta(x'), y), \quad x' = \mathrm{clip}\left(x + \eta + \epsilon \, "
    r"\mathrm{sign} \nabla_x L(f_\theta(x + \eta), y)\right), \quad \eta \sim U(-2 \epsilon, 2 \epsilon)",
    use="The first choice among single-step methods: the cost of fast, without catastrophic overfitting at larger "
    "eps. Its examples leave the ball, so clean accuracy is a little lower; with a budget for more passes take pgd.",
    paper=Paper(
        authors="De Jorge, Bibi, Volpi, Sanyal, Torr, Rogez, Dokania",
        title="Make some noise: reliable and efficient single-step adversarial training",
        venue="NeurIPS 2022",
        url="https://arxiv.org/abs/2202.01181",
    ),
    attack="n_fgsm",
    objective="adversarial",
    update="plain",
    defaults={"lr_schedule": "onecycle"},
)
