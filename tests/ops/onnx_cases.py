"""The node cases of the ONNX backend tests, from the onnx wheel: somebody else's numbers for an operator."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy
import torch
from onnx import AttributeProto, ModelProto, NodeProto, helper
from onnx.backend.test.case.node import collect_testcases
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One node with its inputs and the outputs that the suite states.

    Attributes:
        name: the suite's name of it, such as `test_conv_with_strides_padding`.
        attributes: the node's attributes, as Python values.
        inputs: one entry an input of the node, in its order; None where an optional one is left out.
        outputs: what the node must give, None where an optional output is not asked for.
        rtol, atol: the suite's own tolerances.
    """

    name: str
    attributes: dict[str, Any]
    inputs: list[Tensor | None]
    outputs: list[Tensor | None]
    rtol: float
    atol: float

    def __repr__(self) -> str:
        return self.name

    def check(self, *computed: Tensor | None) -> None:
        """Compare with the stated outputs, one by one; None leaves one out."""
        assert len(computed) == len(self.outputs)
        for ours, stated in zip(computed, self.outputs, strict=True):
            if ours is not None and stated is not None:
                torch.testing.assert_close(ours, stated, rtol=self.rtol, atol=self.atol)


@cache
def _suite() -> list[Any]:
    with warnings.catch_warnings():  # the suite casts on purpose what does not fit
        warnings.simplefilter("ignore")
        return list(collect_testcases())


def cases(op_type: str) -> list[Case]:
    """All cases that consist of one node of this operator (the expanded forms of functions are left out)."""
    return [
        _case(test, node, *data_set)
        for test in _suite()
        for node in _only_node(test.model)
        if node.op_type == op_type
        for data_set in test.data_sets
    ]


def _only_node(model: ModelProto) -> Iterator[NodeProto]:
    if len(model.graph.node) == 1:
        yield model.graph.node[0]


def _case(test: Any, node: NodeProto, inputs: Any, outputs: Any) -> Case:
    attributes = {a.name: _value(a) for a in node.attribute}
    return Case(
        test.name,
        attributes,
        _by_name(node.input, inputs),
        _by_name(node.output, outputs),
        test.rtol,
        test.atol,
    )


def _value(attribute: AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value


def _by_name(names: Any, arrays: Any) -> list[Tensor | None]:
    """The suite passes only those that are there; an empty name is one that is not."""
    values = iter(arrays)
    return [torch.from_numpy(numpy.array(next(values))) if name else None for name in names]
