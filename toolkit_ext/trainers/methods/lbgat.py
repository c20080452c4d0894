"""Learnable boundary guided adversarial training."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="lbgat",
    trainer="LBGATTrainer",
    summary="logits of a clean network, trained beside it, guide the robust one",
    formula="""min_{θ,φ} E [‖f_θ(x') − g_φ(x)‖² / K + L(g_φ(x), y) + β KL(f_θ(x) ‖ f_θ(x'))].

    g_φ is a second network that trains on the clean images in the same steps, and x' comes from PGD on the divergence
    (LBGAT+TRADES of the paper). ``lbgat_beta=0`` leaves the last term out. By default g_φ is a copy of the model; the
    authors take ResNet-18 (``lbgat_network="resnet18"``).""",
    latex=r"\min_{\theta, \phi} \mathbb{E} \left[ \frac{1}{K} \left\| f_\theta(x') - g_\phi(x) \right\|^2 + "
    r"L(g_\phi(x), y) + \beta \, \mathrm{KL}(f_\theta(x) \,\|\, f_\theta(x')) \right]",
    use="For high clean accuracy at a given robust accuracy, above all with many classes; lbgat_beta 0 gives more of "
    "it. It trains two networks: a step takes one clean pass of the second, and memory for both.",
    paper=Paper(
        authors="Cui, Liu, Wang, Jia",
        title="Learnable boundary guided adversarial training",
        venue="ICCV 2021",
        url="https://arxiv.org/abs/2011.11164",
    ),
    attack="tpgd",
    objective="lbgat",
    update="plain",
    smoke={"steps": 2},
)
