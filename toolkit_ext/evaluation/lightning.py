"""Robustness while Lightning trains: a callback that evaluates the module by the columns of our evaluation.

Needs Lightning: ``pip install 'toolkit-ext[lightning]'``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from toolkit_ext.bounds import COUNT
from toolkit_ext.data import as_tensors
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.evaluate import evaluate
from toolkit_ext.evaluation.loading.adapters import Classifier
from toolkit_ext.evaluation.protocol import Protocol, load_protocol
from toolkit_ext.evaluation.result import Evaluation

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.trainer.states import TrainerFn
except ImportError as error:
    raise UserError("lightning: is not installed; pip install 'toolkit-ext[lightning]'") from error

__all__ = ["RobustnessCallback"]


class RobustnessCallback(Callback):  # type: ignore[misc]  # Lightning is not typed here
    """Logs the robust accuracy of a ``LightningModule`` every few epochs.

    It attacks the module at the end of a validation epoch, or at the end of the training epoch where there was no
    validation, and logs one value in [0, 1] per column: ``val_clean_acc``, ``val_pgd20_acc``, ``val_aa_acc``. So
    ``ModelCheckpoint(monitor="val_pgd20_acc", mode="max")`` keeps the most robust epoch. Training goes on with the
    same bits as without the callback. In a multi-process run the processes share the attacks.

    Args:
        data: Validation images ``[N, C, H, W]`` in [0, 1] or uint8, with index labels ``[N]``: a ``DataLoader``, a
            ``Dataset``, or a pair of tensors. Read once, as a whole.
        protocol: What to run: a :class:`Protocol`, or the name or path of one.
        every: Epochs between evaluations.
        limit: Attack the first ``limit`` images only.
        model: What to attack, from the module: a function of images in [0, 1] that returns logits. By default the
            module itself. A module that expects normalised images needs it.
        prefix: Begins the logged names.
        seed: Seed of the attacks.
        batch_size: Images attacked at once, as for :func:`toolkit_ext.evaluation.evaluate`.

    Attributes:
        evaluation: The last :class:`Evaluation`, with intervals and warnings; None before.

    Raises:
        UserError: an option or data that is not allowed; when it evaluates, a model that cannot be attacked.

    Example::

        quick = Protocol("quick", "Linf", "8/255", attacks=("clean", "pgd20"))
        robustness = RobustnessCallback(validation_loader, quick, every=5, limit=500)
        Trainer(max_epochs=30, callbacks=[robustness]).fit(module, training_loader, validation_loader)
    """

    def __init__(
        self,
        data: DataLoader[Any] | Dataset[Any] | tuple[Tensor, Tensor],
        protocol: Protocol | str,
        *,
        every: int = 1,
        limit: int | None = None,
        model: Callable[[LightningModule], Classifier] | None = None,
        prefix: str = "val_",
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.protocol = load_protocol(protocol)
        self.every = COUNT.check("every", every, int)
        images, labels = as_tensors(*data) if isinstance(data, tuple | list) else as_tensors(data, None)
        limit = len(images) if limit is None else COUNT.check("limit", limit, int)
        self.images, self.labels = images[:limit], labels[:limit]
        self.model = model or (lambda module: module)
        self.prefix, self.seed, self.batch_size = prefix, seed, batch_size
        self.evaluation: Evaluation | None = None
        self._measured = -1

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate, unless this is Lightning's sanity check or not the turn of this epoch."""
        if not trainer.sanity_checking:
            self._measure(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate if it is the turn of this epoch and no validation did it."""
        if self._measured != trainer.current_epoch:
            self._measure(trainer, pl_module)

    def _measure(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and (trainer.current_epoch + 1) % self.every:
            return
        # Lightning validates in inference mode, where there are no gradients to attack with.
        with torch.inference_mode(False), torch.enable_grad():
            self.evaluation = evaluate(
                self.model(module),
                self.images,
                self.labels,
                self.protocol,
                seed=self.seed,
                batch_size=self.batch_size,
                progress=False,
            )
        self._measured = trainer.current_epoch
        module.log_dict({f"{self.prefix}{name}": value for name, value in self.evaluation.metrics.items()})
