"""cnnkit: the canon of convolutional networks as one working, verified system.

    import cnnkit

    run = cnnkit.fit("digits", model="lenet5_relu")
    print(run.summary["test"]["accuracy"], run.report)
    print(cnnkit.load(run.best).predict("a_digit.png"))

Everything here is loaded on first use, so `import cnnkit` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnkit.models import create as create
    from cnnkit.models import specs as specs
    from cnnkit.tasks.loading import load as load
    from cnnkit.train.evaluate import evaluate as evaluate
    from cnnkit.train.fit import fit as fit

__version__ = "0.1.0"

_WHERE = {
    "create": "cnnkit.models",
    "evaluate": "cnnkit.train.evaluate",
    "fit": "cnnkit.train.fit",
    "load": "cnnkit.tasks.loading",
    "specs": "cnnkit.models",
}

__all__ = [*_WHERE, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'cnnkit' has no attribute {name!r}")
