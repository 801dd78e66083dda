"""What every algorithm of correlation computes, and its gradients as they are derived.

With image x (N, C, *spatial), kernels w (O, C / groups, *kernel), stride s, padding p before and q after, and
dilation d, written for one spatial axis, k taps and extent e = d (k - 1) + 1,

    y[o, i]  = sum_c sum_u w[o, c, u] x[c, s i + d u - p]                                           forward
    dx[c, j] = sum_o sum_i r[o, i] w[o, c, u]  over all i, u with s i + d u - p = j                 images
    dw[o, c, u] = sum_n sum_i r[o, i] x[c, s i + d u - p]                                           kernels

where r is the residual dL/dy. Read as correlations again:

    images    put s - 1 zeros between the residuals, pad by e - 1 - p and e - 1 - q (and the positions that no
              window read), and correlate with the kernel turned by 180 degrees, summing over the outputs o;
    kernels   correlate the padded image with the residual as its kernel, dilated by s, in steps of d; the
              examples n take the place of the channels.

Bouvrie, "Notes on Convolutional Neural Networks", 2006, section 3; Dumoulin & Visin 2016, arXiv:1603.07285.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from cnnkit.ops.shapes import Axis
from cnnkit.ops.windows import interleave, rotate


class Algorithm(ABC):
    """A way to compute a correlation; the derived gradients come through it unless it knows a shorter way."""

    @abstractmethod
    def correlate(self, images: Tensor, kernels: Tensor, axes: Sequence[Axis], groups: int) -> Tensor:
        """(N, C, *spatial), (O, C / groups, *kernel) -> (N, O, *out)

        Raises:
            ValueError: the algorithm cannot do the case.
        """

    def images_gradient(self, residual: Tensor, kernels: Tensor, axes: Sequence[Axis], groups: int) -> Tensor:
        """(N, O, *out), (O, C / groups, *kernel) -> (N, C, *spatial)"""
        spread = interleave(residual, [a.stride for a in axes])
        swapped = rotate(_swap(kernels, groups))
        back = [
            Axis(
                s,
                a.kernel,
                before=a.extent - 1 - a.before,
                after=a.extent - 1 - a.after + a.unread,
                dilation=a.dilation,
            )
            for a, s in zip(axes, spread.shape[2:], strict=True)
        ]
        return self.correlate(spread, swapped, back, groups)

    def kernels_gradient(self, residual: Tensor, images: Tensor, axes: Sequence[Axis], groups: int) -> Tensor:
        """(N, O, *out), (N, C, *spatial) -> (O, C / groups, *kernel)"""
        over = [
            Axis(
                a.size, a.out, stride=a.dilation, before=a.before, after=a.after - a.unread, dilation=a.stride
            )
            for a in axes
        ]
        count, channels, *sizes = images.shape
        examples = images.reshape(count, groups, channels // groups, *sizes).transpose(0, 2)
        examples = examples.reshape(channels // groups, groups * count, *sizes)
        maps = self.correlate(examples, _swap(residual, 1), over, groups)
        return maps.transpose(0, 1)


def _swap(kernels: Tensor, groups: int) -> Tensor:
    """Inputs for outputs within each group. Shape: (O, C / groups, *kernel) -> (C, O / groups, *kernel)"""
    outputs, inputs, *taps = kernels.shape
    swapped = kernels.reshape(groups, outputs // groups, inputs, *taps).transpose(1, 2)
    return swapped.reshape(groups * inputs, outputs // groups, *taps)
