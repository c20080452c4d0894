"""Images and labels: named data sets, image folders, splits, and the checks of what a caller brings."""

from toolkit_ext.data._checks import check_images, check_labels
from toolkit_ext.data._dataset import Dataset, channel_stats, split_validation, to_unit
from toolkit_ext.data._load import NAMES, load

__all__ = ["NAMES", "Dataset", "channel_stats", "check_images", "check_labels", "load", "split_validation", "to_unit"]
