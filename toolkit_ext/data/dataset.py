"""A data set: its training and test part, in tensors or in images that are read by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, cast

from torch import Tensor
from typing_extensions import TypeVar

from toolkit_ext.data.images import ImageSet, as_image_set
from toolkit_ext.errors import UserError

X = TypeVar("X", bound="Tensor | ImageSet", default=Tensor, covariant=True)


@dataclass(frozen=True, eq=False)
class Dataset(Generic[X]):
    """Training and test part of a data set.

    Args:
        name: As given to :func:`toolkit_ext.data.load`.
        x_train, x_test: ``[N, C, H, W]``, float32 in [0, 1] or uint8 (:func:`toolkit_ext.data.to_unit` converts).
            :func:`toolkit_ext.data.open_source` gives each as an :class:`toolkit_ext.data.ImageSet`.
        y_train, y_test: Index labels, int64 ``[N]``.
        num_classes: Number of classes K; labels are 0 to K - 1.
        classes: K names.
        x_validation, y_validation: The same of the source's own validation split, if it has one.
        facts: What a record says of the data: ``sha256``, how it was read, skipped images, duplicates.
    """

    name: str
    x_train: X
    y_train: Tensor
    x_test: X
    y_test: Tensor
    num_classes: int
    classes: tuple[str, ...]
    x_validation: X | None = None
    y_validation: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return int(self.x_train.shape[1])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return int(self.x_train.shape[2]), int(self.x_train.shape[3])

    def subset(self, n_train: int | None = None, n_test: int | None = None) -> Dataset[X]:
        """The first ``n_train`` training and ``n_test`` test images, or all; :func:`load` never orders them by class.

        Raises:
            UserError: a number below 1 or above the number of images.
        """
        train = _first("n_train", n_train, len(self.y_train))
        test = _first("n_test", n_test, len(self.y_test))
        counts = {"x_train": train, "y_train": train, "x_test": test, "y_test": test}
        return replace(self, **{name: getattr(self, name)[:count] for name, count in counts.items() if count})

    def opened(self) -> Dataset[ImageSet]:
        """The same with all images as an :class:`ImageSet`."""
        names = ("x_train", "x_test", "x_validation")
        found: dict[str, Any] = {name: as_image_set(x) for name in names if (x := getattr(self, name)) is not None}
        return cast("Dataset[ImageSet]", replace(self, **found))

    def tensors(self) -> Dataset[Tensor]:
        """The same with all images in tensors."""
        names = ("x_train", "x_test", "x_validation")
        found: dict[str, Any] = {name: x.all() for name in names if isinstance(x := getattr(self, name), ImageSet)}
        return cast("Dataset[Tensor]", replace(self, **found))


def _first(option: str, wanted: int | None, available: int) -> int | None:
    if wanted is not None and not 1 <= wanted <= available:
        raise UserError(f"{option}: {wanted} is not allowed; there are {available} images, give 1 to {available}")
    return wanted
