"""timm classifiers with normalisation inside; importing this registers LeNet, VGG16-w, ResNet18-w, ... with timm."""

from toolkit_ext.backbones import lenet, preact_resnet, small_resnet, small_vgg
from toolkit_ext.backbones._create import create
from toolkit_ext.backbones._names import check_name, names
from toolkit_ext.backbones.checkpoint import load_model, read_config, read_training, save_model
from toolkit_ext.backbones.normalized import Normalized

__all__ = [
    "Normalized",
    "check_name",
    "create",
    "lenet",
    "load_model",
    "names",
    "preact_resnet",
    "read_config",
    "read_training",
    "save_model",
    "small_resnet",
    "small_vgg",
]
