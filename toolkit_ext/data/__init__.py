"""Images and labels: named data sets, image folders, splits and checks."""

from toolkit_ext.data.dataset import Dataset
from toolkit_ext.data.sources import NAMES, load
from toolkit_ext.data.tensors import as_tensor, channel_stats, check_images, check_labels, split_validation, to_unit

__all__ = [
    "NAMES",
    "Dataset",
    "as_tensor",
    "channel_stats",
    "check_images",
    "check_labels",
    "load",
    "split_validation",
    "to_unit",
]
