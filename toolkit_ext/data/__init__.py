"""Images and labels: named data sets, image folders, splits and checks, in memory or streamed."""

from toolkit_ext.data.dataset import Dataset
from toolkit_ext.data.decoding import in_memory, place
from toolkit_ext.data.images import ImageSet, ImagesInMemory, as_image_set
from toolkit_ext.data.items import as_examples, as_tensors
from toolkit_ext.data.reading import Engine, Reading
from toolkit_ext.data.sources import NAMES, load, open_source
from toolkit_ext.data.tensors import channel_stats, check_images, check_labels, split_validation, to_unit

__all__ = [
    "NAMES",
    "Dataset",
    "Engine",
    "ImageSet",
    "ImagesInMemory",
    "Reading",
    "as_examples",
    "as_image_set",
    "as_tensors",
    "channel_stats",
    "check_images",
    "check_labels",
    "in_memory",
    "load",
    "open_source",
    "place",
    "split_validation",
    "to_unit",
]
