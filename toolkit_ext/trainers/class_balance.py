"""Classes of unequal size: their weights in the loss, and epochs in which all have equal shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from toolkit_ext.bounds import POSITIVE
from toolkit_ext.errors import UserError, quoted

if TYPE_CHECKING:
    from torch import Generator, Tensor

WORDS = ("none", "balanced")


def as_text(weights: Any) -> Any:
    """Numbers, in a list or in a text, as one text for the same numbers; other values as they are."""
    items = weights.tolist() if hasattr(weights, "tolist") else weights
    items = items.split(",") if isinstance(items, str) else items
    if not isinstance(items, Sequence) or isinstance(items, bytes):
        return weights
    try:
        return ",".join(str(float(item)).removesuffix(".0") for item in items)
    except (TypeError, ValueError):
        return weights if isinstance(weights, str) else ",".join(map(str, items))


def parse_weights(text: str) -> tuple[float, ...]:
    """The numbers in ``class_weights``; none for one of :data:`WORDS`.

    Raises:
        UserError: something else than a word or positive numbers with commas.
    """
    if text in WORDS:
        return ()
    try:
        return tuple(POSITIVE.check("class_weights", float(word)) for word in text.split(","))
    except ValueError:
        allowed = f"{', '.join(WORDS)}, or a positive number for each class such as 1,2.5,1"
        raise UserError(f"class_weights: {quoted(text)} is not allowed; give {allowed}") from None


def check_weights(text: str, num_classes: int) -> None:
    """Raise :class:`UserError` if ``class_weights`` has numbers, but not one for each class."""
    if (given := parse_weights(text)) and len(given) != num_classes:
        raise UserError(f"class_weights: {len(given)} weights for {num_classes} classes; give one for each")


def class_weights(text: str, y: Tensor | None, num_classes: int) -> Tensor | None:
    """The weight of each class in the loss ``[K]``, or None where they count alike.

    ``balanced`` is ``w_k = N / (C n_k)`` with ``n_k`` of the ``N`` training images in class ``k``, and ``C`` classes
    that have any, as scikit-learn's ``compute_class_weight``; classes without images get 0.

    Args:
        text: ``none``, ``balanced`` or numbers, as in :class:`~toolkit_ext.trainers.config.LoopConfig`.
        y: Index labels ``[N]`` of the training images; None for batches from outside, see :func:`refuse_stream`.
        num_classes: Number of classes K.

    Raises:
        UserError: another number of weights than classes.

    Example:
        >>> import torch
        >>> class_weights("balanced", torch.tensor([0, 0, 0, 1]), 3)
        tensor([0.6667, 2.0000, 0.0000])
    """
    import torch

    check_weights(text, num_classes)
    if text == "none":
        return None
    if text != "balanced":
        return torch.tensor(parse_weights(text))
    assert y is not None, "refuse_stream goes first"
    counts = y.cpu().bincount(minlength=num_classes).double()
    weights = len(y) / ((counts > 0).sum() * counts)
    return weights.where(counts > 0, torch.zeros(())).float()


def refuse_stream(sampler: str, class_weights: str) -> None:
    """Refuse ``balanced`` for batches from outside.

    Raises:
        UserError: one of the two is ``balanced``; neither labels nor order are known before the batches are read.
    """
    for option, value in (("sampler", sampler), ("class_weights", class_weights)):
        if value == "balanced":
            raise UserError(
                f"{option}: balanced is not allowed with a DataLoader or generator, whose labels come batch by batch; "
                "give fit a Dataset, or the DataLoader a sampler of its own"
            )


class BalancedOrder:
    """Draws rows with replacement such that every class that has rows is equally likely.

    The distribution is that of torch's ``WeightedRandomSampler`` with the inverse class frequencies, without its limit
    of 2^24 rows.

    Args:
        y: Index labels ``[N]``.
    """

    def __init__(self, y: Tensor) -> None:
        import torch

        labels = y.cpu()
        self.rows = labels.argsort(stable=True)
        counts = labels.bincount()
        starts = counts.cumsum(0) - counts
        self.counts, self.starts = counts[counts > 0], starts[counts > 0]
        self.dtype = torch.float64  # a float32 cannot count to 2^24

    def draw(self, generator: Generator) -> Tensor:
        """``N`` rows, int64, in random order."""
        import torch

        n = len(self.rows)
        chosen = torch.randint(len(self.counts), (n,), generator=generator)
        within = torch.rand(n, generator=generator, dtype=self.dtype) * self.counts[chosen]
        return self.rows[self.starts[chosen] + within.long()]
