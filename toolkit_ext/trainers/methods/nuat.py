"""Nuclear norm adversarial training."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="nuat",
    trainer="NuATTrainer",
    summary="clean cross-entropy plus the nuclear norm of the change of logits",
    formula="""min_θ E [L(f_θ(X), Y) + λ ‖f_θ(X') − f_θ(X)‖_* / N].

    The batch has N images, the logits are a matrix [N, K], and ‖·‖_* is the sum of its singular values. X' takes one
    step of eps on the same loss from X ± eps / 2.

    The authors' λ rises linearly from 0 to 4.5 over the epochs; here it is constant. As in their code, every other
    step of the attack is on the cross-entropy alone.""",
    latex=r"\min_\theta \mathbb{E} \left[ L(f_\theta(X), Y) + \frac{\lambda}{N} \left\| f_\theta(X') - f_\theta(X) "
    r"\right\|_* \right]",
    use="For single-step training close to the robustness of several steps. Its loss couples the batch: keep batches "
    "well above the number of classes, and expect other results when the batch size changes.",
    paper=Paper(
        authors="Sriramanan, Addepalli, Baburaj, Radhakrishnan",
        title="Towards efficient and effective adversarial training",
        venue="NeurIPS 2021",
        url="https://proceedings.neurips.cc/paper/2021/hash/62889e73828c756c961c5a6d6c01a463-Abstract.html",
    ),
    attack="nuat",
    objective="nuat",
    update="plain",
    defaults={"lr_schedule": "onecycle"},
)
