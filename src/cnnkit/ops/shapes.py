"""The arithmetic of sizes: how many windows fit along an axis, under every convention in use.

A window of k taps, d apart, reaches over e = d (k - 1) + 1 positions. On an axis of n positions with p zeros
before and q after it, taking every s-th position, there are

    correlation   floor((p + n + q - e) / s) + 1
    pooling       ceil((p + n + q - e) / s) + 1   in Caffe; less one if the last begins in the zeros after
    transposed    s (n - 1) + e - p - q + o       the sizes that a correlation maps to n, told apart by o < s

(Dumoulin & Visin 2016, arXiv:1603.07285, relationships 6, 14 and 15; Caffe, pooling_layer.cpp).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

#: Zeros around the image: one number for all sides, one an axis, a pair (before, after) an axis, or a name.
Padding = int | Sequence[int] | Sequence[tuple[int, int]] | Literal["valid", "same", "full"]


@dataclass(frozen=True, slots=True)
class Axis:
    """How a window slides along one axis.

    Attributes:
        size: n, positions of the image.
        kernel: k, taps of the window.
        stride: s, positions from one window to the next.
        before, after: p and q, zeros on either side.
        dilation: d, positions from one tap to the next.
    """

    size: int
    kernel: int
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1

    @property
    def extent(self) -> int:
        """e = d (k - 1) + 1, the positions that a window reaches over."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def padded(self) -> int:
        """p + n + q."""
        return self.before + self.size + self.after

    @property
    def out(self) -> int:
        """Windows that fit: floor((p + n + q - e) / s) + 1."""
        return (self.padded - self.extent) // self.stride + 1

    @property
    def unread(self) -> int:
        """Positions at the end that no window reaches, because the stride does not divide."""
        return (self.padded - self.extent) % self.stride

    @property
    def out_ceil(self) -> int:
        """Caffe's pooling: a last window may hang over the end, but must not begin in the zeros after."""
        out = -((self.extent - self.padded) // self.stride) + 1
        return out - 1 if (out - 1) * self.stride >= self.before + self.size else out


def axes(
    sizes: Sequence[int],
    kernel: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
) -> tuple[Axis, ...]:
    """One `Axis` for each spatial axis of an image of these sizes.

    `valid` is no padding. `full` pads so that every window that touches the image counts. `same` gives
    ceil(n / s) windows and puts the odd zero after, as TensorFlow and ONNX's SAME_UPPER do.

    Raises:
        ValueError: a size, kernel, stride or dilation is not positive, a padding is negative, the number of
            values does not fit the number of axes, or the kernel is larger than the padded image.
    """
    made = _padded(sizes, kernel, stride, padding, dilation)
    for axis in made:
        if axis.extent > axis.padded:
            raise ValueError(
                f"kernel {tuple(kernel)} with dilation {tuple(a.dilation for a in made)} reaches over "
                f"{axis.extent} positions, more than the {axis.padded} of an image of {tuple(sizes)} with "
                f"padding {tuple((a.before, a.after) for a in made)}"
            )
    return made


def transposed_axes(
    sizes: Sequence[int],
    kernel: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> tuple[Axis, ...]:
    """The axes of the correlation that maps to `sizes`: its image is the output of the transposed one.

    `same` gives outputs of s n.

    Raises:
        ValueError: as `axes` and `transposed_size` do.
    """
    extra = per_axis(output_padding, len(sizes), "output_padding")
    if padding == "same":
        wider = [n * s for n, s in zip(sizes, per_axis(stride, len(sizes), "stride"), strict=True)]
        if any(extra):
            raise ValueError(
                f"padding 'same' leaves nothing to choose by output_padding, got {output_padding}"
            )
        return axes(wider, kernel, stride=stride, padding=padding, dilation=dilation)
    small = _padded(sizes, kernel, stride, padding, dilation)
    return tuple(replace(a, size=transposed_size(a, more)) for a, more in zip(small, extra, strict=True))


def transposed_size(axis: Axis, output_padding: int = 0) -> int:
    """The size that a correlation along `axis` maps to `axis.size`: s (n - 1) + e - p - q + output_padding.

    Raises:
        ValueError: `output_padding` is negative or not smaller than the stride, or nothing is left.
    """
    if not 0 <= output_padding < axis.stride:
        raise ValueError(f"output_padding must be in 0..stride - 1 = {axis.stride - 1}, got {output_padding}")
    size = axis.stride * (axis.size - 1) + axis.extent - axis.before - axis.after + output_padding
    if size < 1:
        raise ValueError(
            f"padding ({axis.before}, {axis.after}) leaves nothing of the transposed output: {size}"
        )
    return size


def per_axis(value: int | Sequence[int], count: int, name: str) -> tuple[int, ...]:
    """One value for each of `count` axes; a single one serves all.

    Raises:
        ValueError: a sequence of another length.
    """
    values = (value,) * count if isinstance(value, int) else tuple(value)
    if len(values) != count:
        raise ValueError(f"{name} must be one value or {count}, one for each spatial axis, got {value}")
    return values


def _padded(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
) -> tuple[Axis, ...]:
    count = len(sizes)
    if len(kernel) != count:
        raise ValueError(f"kernel {tuple(kernel)} must have one size for each of the {count} spatial axes")
    strides, dilations = per_axis(stride, count, "stride"), per_axis(dilation, count, "dilation")
    for name, values in (
        ("image size", sizes),
        ("kernel", kernel),
        ("stride", strides),
        ("dilation", dilations),
    ):
        if min(values) < 1:
            raise ValueError(f"{name} must be at least 1 on every axis, got {tuple(values)}")
    bare = [Axis(n, k, s, 0, 0, d) for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)]
    if isinstance(padding, str):
        pairs = tuple(_named(padding, axis) for axis in bare)
    else:
        pairs = pairs_of(padding, count)
    return tuple(replace(a, before=p, after=q) for a, (p, q) in zip(bare, pairs, strict=True))


def pairs_of(
    padding: int | Sequence[int] | Sequence[tuple[int, int]], count: int
) -> tuple[tuple[int, int], ...]:
    """A padding in numbers as (before, after) for each of `count` axes.

    Raises:
        ValueError: a negative number, or a sequence of another length.
    """
    values: Sequence[int | tuple[int, int]]
    values = (padding,) * count if isinstance(padding, int) else tuple(padding)
    pairs = tuple((v, v) if isinstance(v, int) else (v[0], v[1]) for v in values)
    if len(pairs) != count:
        raise ValueError(f"padding must be one value or {count}, one for each spatial axis, got {padding}")
    if min(min(pair) for pair in pairs) < 0:
        raise ValueError(f"padding must not be negative, got {padding}")
    return pairs


def _named(name: str, axis: Axis) -> tuple[int, int]:
    if name == "valid":
        return 0, 0
    if name == "full":
        return axis.extent - 1, axis.extent - 1
    if name == "same":
        windows = -(-axis.size // axis.stride)
        total = max(0, (windows - 1) * axis.stride + axis.extent - axis.size)
        return total // 2, total - total // 2
    raise ValueError(f"padding must be valid, same, full or numbers, got {name!r}")
