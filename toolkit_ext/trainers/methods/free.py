"""Free adversarial training: every backward pass moves the weights and the perturbation."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="free",
    trainer="FreeTrainer",
    summary="each batch replayed, one backward pass for weights and inputs",
    formula="""θ ← θ − η ∇_θ L(f_θ(x + δ), y),  δ ← clip(δ + eps sign ∇_x L(f_θ(x + δ), y)),  m times on each batch.

    Both gradients come from one backward pass, m times on each batch, and δ goes on to the next batch (algorithm 1 of
    the paper). ``free_replays`` is m. The learning rate moves on once a batch. The attack gives eps alone.""",
    latex=r"\theta \leftarrow \theta - \eta \nabla_\theta L(f_\theta(x + \delta), y), \quad \delta \leftarrow "
    r"\mathrm{clip}_\epsilon\left(\delta + \epsilon \, \mathrm{sign} \nabla_x L(f_\theta(x + \delta), y)\right)",
    use="When no pass may be spent on an attack. Divide the epochs by free_replays: an epoch costs as much as so many "
    "of standard training. n_fgsm is as cheap and often more robust.",
    paper=Paper(
        authors="Shafahi, Najibi, Ghiasi, Xu, Dickerson, Studer, Davis, Taylor, Goldstein",
        title="Adversarial training for free!",
        venue="NeurIPS 2019",
        url="https://arxiv.org/abs/1904.12843",
    ),
    attack="fgsm",
    objective="adversarial",
    update="free",
)
