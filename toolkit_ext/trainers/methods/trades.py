"""TRADES: clean cross-entropy plus the divergence between clean and adversarial predictions."""

from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="trades",
    trainer="TRADESTrainer",
    summary="clean cross-entropy plus β times the adversarial divergence",
    formula="""min_θ E [L(f_θ(x), y) + β max_{‖x' − x‖ ≤ eps} KL(f_θ(x) ‖ f_θ(x'))].

    x' comes from PGD on the divergence (algorithm 1). The authors' code differs in two ways: its attack starts outside
    [0, 1] (``tpgd_start="unclamped"``), and batch norm sees the clean batch twice (``trades_clean_passes=2``). Steps
    with both options are theirs.""",
    latex=r"\min_\theta \mathbb{E} \left[ L(f_\theta(x), y) + \beta \max_{\|x' - x\| \le \epsilon} "
    r"\mathrm{KL}(f_\theta(x) \,\|\, f_\theta(x')) \right]",
    use="For a trade-off between clean and robust accuracy that one number (trades_beta) sets. Often the strongest "
    "choice together with awp and weight averaging.",
    paper=Paper(
        authors="Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan",
        title="Theoretically principled trade-off between robustness and accuracy",
        venue="ICML 2019",
        url="https://arxiv.org/abs/1901.08573",
    ),
    attack="tpgd",
    objective="trades",
    update="plain",
    smoke={"steps": 2},
)
