"""The cases of a part, ``plain`` or ``sharded``, on two ranks; each saves its results in the folder that is given.

This process reads the libraries once and forks the ranks, with the environment that torchrun would give them:
torchrun, which test_ranks_killed.py uses, reads them three times.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState  # noqa: F401  read before the ranks are forked
from torch import Tensor, distributed
from torch.multiprocessing.spawn import start_processes
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parent))

from cases import (  # type: ignore[import-not-found]
    FREE,
    LINF,
    METHODS,
    MIXED,
    ONE,
    ONE_STEP,
    SHARDED,
    SHORT,
    digits,
    evaluation,
    fitted,
    lenet,
    net_with_batch_norm,
    plain,
    streamed,
    trainer_of,
    vit,
    weights_of,
)

from toolkit_ext import ranks
from toolkit_ext.ranks import RankError, told_elsewhere
from toolkit_ext.trainers import MethodTrainer
from toolkit_ext.trainers.fsdp import can_shard

PART, FOLDER, SIZE = sys.argv[1], Path(sys.argv[2]), 2
team = ranks.ALONE


def counted(run: Callable[[], MethodTrainer]) -> dict[str, Any]:
    """The weights and the history of a run, and how many sums over the ranks its steps took."""
    sizes: list[int] = []
    reduce = distributed.all_reduce

    def counting(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(tensor.numel())
        return reduce(tensor, *args, **kwargs)

    distributed.all_reduce = counting
    try:
        trainer = run()
    finally:
        distributed.all_reduce = reduce
    large = [size for size in sizes if size > 100]  # figures and accuracies are small
    return {"weights": weights_of(trainer), "history": trainer.history, "sums": len(large)}


def refused(run: Callable[[], Any]) -> str:
    """The message of the error that ``run`` ends with."""
    try:
        run()
    except (ValueError, RankError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def with_loader() -> MethodTrainer:
    """Training on the batches of a loader."""
    trainer: MethodTrainer = trainer_of("pgd", LINF)
    loader = DataLoader(TensorDataset(*digits()), batch_size=23, shuffle=True)
    trainer.fit_generator(loader, nb_epochs=2, progress=False)
    return trainer


def from_a_stream(**options: Any) -> dict[str, Any]:
    """The weights after training on streamed images, and which of them this rank has read."""
    trainer, reads = streamed(**options)
    return {"weights": weights_of(trainer), "history": trainer.history, "reads": reads}


def resumed() -> dict[str, Any]:
    """One epoch by one process, then by two; and the other way round, for the test to go on with."""
    own = FOLDER / f"whole-{team.rank}"  # of rank 1 nothing may be there
    fitted("pgd", LINF, nb_epochs=3, stop_after=1, run_dir=own)
    again = refused(lambda: fitted("pgd", LINF, nb_epochs=3, run_dir=own))
    other = refused(lambda: fitted("pgd", {**LINF, "eps": 0.2}, nb_epochs=3, run_dir=own, resume=True))
    rest = fitted("pgd", LINF, nb_epochs=3, run_dir=FOLDER / "from-one", resume=True)
    return {"weights": weights_of(rest), "history": rest.history, "again": again, "other": other}


def fsdp() -> dict[str, Any]:
    """Every method that weights in parts allow; and a run that is stopped, and goes on."""
    parts = {"sharding": "fsdp"}
    found: dict[str, Any] = {
        name: weights_of(fitted(method, {**options, **parts}, vit(), nb_epochs=1))
        for name, (method, options) in SHARDED.items()
    }
    run: dict[str, Any] = {"nb_epochs": 3, "run_dir": FOLDER / "sharded"}
    fitted("pgd", {**LINF, **parts, "optimizer": "adamw", "lr": 1e-3}, vit(), stop_after=1, **run)
    rest = fitted("pgd", {**LINF, **parts, "optimizer": "adamw", "lr": 1e-3}, vit(), resume=True, **run)
    found["resumed"] = weights_of(rest)
    found["best"] = rest.best_state_dict
    return found


def errors() -> dict[str, str]:
    """What the ranks say, in one line each."""
    rank = team.rank
    x, y = digits()
    odd = {"x": x.flip(-1) if rank else x, "y": y}
    fit: dict[str, Any] = {"batch_size": 40, "nb_epochs": 1, "progress": False}
    return {
        "configuration": refused(lambda: fitted("pgd", {**LINF, "eps": 0.1 + 0.1 * rank})),
        "data": refused(lambda: trainer_of("pgd", LINF).fit(odd["x"], odd["y"], **fit)),
        "models": refused(lambda: evaluation(seed=rank)),
        "batch": refused(lambda: fitted("pgd", LINF, batch_size=1)),
        "sync": refused(lambda: fitted("pgd", {**LINF, "sync_batch_norm": True})),
        "fsdp": refused(lambda: fitted("awp", {**LINF, "sharding": "fsdp"})),
        "attack": refused(lambda: fitted("deep", {**SHORT, "sharding": "fsdp"})),
    }


class Hungry(torch.nn.Module):
    """A model whose ``at``-th forward pass on rank 1 has no memory left."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.model, self.left = lenet(), at

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0 and team.rank == 1:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        logits: Tensor = self.model(x)
        return logits


def sharded() -> dict[str, Any]:
    """Training with weights in parts, or why it is refused."""
    return {"fsdp": fsdp() if can_shard(torch.device("cpu")) else refused(fsdp)}


def unsharded() -> dict[str, Any]:
    """Every other case; the last one ends with rank 1 out of memory."""
    found: dict[str, Any] = {
        "methods": {name: counted(partial(fitted, *choice)) for name, choice in METHODS.items()},
        "one step": {name: counted(partial(fitted, *choice, **ONE)) for name, choice in ONE_STEP.items()},
        "amp of the rank": counted(lambda: fitted("amp", SHORT, nb_epochs=1)),
        "batch norm": counted(lambda: fitted("standard", {**SHORT, "lr": 1e-9}, net_with_batch_norm(), batch_size=105)),
        "free": counted(lambda: fitted(*FREE)),
        "loader": counted(with_loader),
        "streamed": from_a_stream(),
        "streamed and mixed": from_a_stream(**MIXED),
        "resumed": resumed(),
        "errors": errors(),
        "evaluation": plain(evaluation(state_dir=FOLDER / "evaluation")),
    }
    found["told"] = told_elsewhere("the same")
    found["memory"] = refused(lambda: fitted("pgd", LINF, Hungry(20)))
    return found


def run(rank: int, port: int) -> None:
    """The cases of the part on this rank."""
    global team
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": SIZE, "LOCAL_WORLD_SIZE": SIZE}
    os.environ |= {name: str(value) for name, value in {**place, "RANK": rank, "LOCAL_RANK": rank}.items()}
    team, _ = ranks.start(torch.device("cpu"))
    found = sharded() if PART == "sharded" else unsharded()
    torch.save(found, FOLDER / f"rank-{team.rank}.pt")


def main() -> None:
    """Start the ranks, and end with them; an error of one ends both."""
    lenet()  # trained once, before the ranks are forked
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(run, args=(port,), nprocs=SIZE, start_method="fork" if sys.platform == "linux" else "spawn")


if __name__ == "__main__":
    main()
