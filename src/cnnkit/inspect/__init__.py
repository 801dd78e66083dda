"""What is in a network, what it costs and what its units see, without running it.

    from cnnkit.inspect import table, trace

    made = table(trace(network, images))
    print(made.total.params, made.total.macs)

Any `nn.Module` will do. `macs` is the one figure that most people ask for; `check` holds the receptive fields
to the gradients.
"""

from cnnkit.inspect.check import Verdict, check
from cnnkit.inspect.effective import Effective, effective
from cnnkit.inspect.failure import TraceError
from cnnkit.inspect.graph import Trace
from cnnkit.inspect.receptive import fields
from cnnkit.inspect.table import Row, Table, macs, table
from cnnkit.inspect.trace import trace

__all__ = [
    "Effective",
    "Row",
    "Table",
    "Trace",
    "TraceError",
    "Verdict",
    "check",
    "effective",
    "fields",
    "macs",
    "table",
    "trace",
]
