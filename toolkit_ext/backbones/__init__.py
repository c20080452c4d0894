"""timm classifiers with normalisation inside; importing this registers LeNet, VGG16-w, ResNet18-w, ... with timm."""

from toolkit_ext.backbones import lenet, resnets, small_vgg
from toolkit_ext.backbones.building import Normalized, create
from toolkit_ext.backbones.checkpoint import load_model, read_config, read_training, save_model
from toolkit_ext.backbones.making import Made, Shape, make
from toolkit_ext.backbones.registry import check_name, names

preact_resnet = small_resnet = resnets  # earlier names

__all__ = [
    "Made",
    "Normalized",
    "Shape",
    "check_name",
    "create",
    "lenet",
    "load_model",
    "make",
    "names",
    "preact_resnet",
    "read_config",
    "read_training",
    "resnets",
    "save_model",
    "small_resnet",
    "small_vgg",
]
