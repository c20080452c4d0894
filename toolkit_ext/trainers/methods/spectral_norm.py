"""Adversarial training with spectrally normalised weights."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="spectral_norm",
    trainer="SpectralNormTrainer",
    summary="every weight divided by its largest singular value",
    formula="""W̄ = W / σ(W).

    W is the weight of a linear or convolution layer, and σ its largest singular value.
    ``spectral="operator"`` divides by the norm of the convolution itself instead of that of its reshaped kernel.""",
    latex=r"\bar{W} = \frac{W}{\sigma(W)}",
    use="For a bound on the Lipschitz constant of each layer. It limits what the network can fit, so clean and "
    "robust accuracy may both fall.",
    paper=Paper(
        authors="Miyato, Kataoka, Koyama, Yoshida",
        title="Spectral normalization for generative adversarial networks",
        venue="ICLR 2018",
        url="https://arxiv.org/abs/1802.05957",
    ),
    attack="pgd",
    objective="adversarial",
    update="plain",
    defaults={"spectral": "reshaped"},
    smoke={"steps": 2},
)
