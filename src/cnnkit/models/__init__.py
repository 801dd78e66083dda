"""Every network of the canon: one paper, one file. Importing this package fills the registry."""

from cnnkit.models.classify import densenet, lenet5, lenet1989, resnet
from cnnkit.registry import create, spec, specs

__all__ = ["create", "densenet", "lenet5", "lenet1989", "resnet", "spec", "specs"]
