"""Inception v4. Szegedy, Ioffe, Vanhoucke & Alemi, AAAI 2017, arXiv:1602.07261; its residual half is
`inception_resnet.py`.

The blocks of Inception v3 made uniform: one block a grid (Fig. 4 to 6), reductions between them (Fig. 7 and
8), and a stem that is mixed itself (Fig. 3).

Departures: where a figure and the authors' code order the 1x7 and 7x1 of a branch differently, the code is
followed. The average pooling leaves the zeros of its padding out, as theirs does. `aux=True` adds the
auxiliary head of their code, which the paper does not show.

Images are 299 x 299; any size from 75 x 75 on will do, and with `aux=True` any from 299 x 299 on.
"""

from torch import nn

from cnnkit.layers.mixed import Part, chain, conv, keep, mixed
from cnnkit.models.classify.inception_v3 import MAX, Inception, fork
from cnnkit.registry import register

AVERAGE = keep(nn.AvgPool2d, 3, 1, 1, count_include_pad=False)

#: Fig. 3, up to the 71 x 71 grid and on to the 35 x 35 one.
STEM = chain(
    *(conv(32, 3, stride=2, valid=True), conv(32, 3, valid=True), conv(64, 3)),
    mixed(pool=MAX, three=conv(96, 3, stride=2, valid=True)),
    mixed(
        three=chain(conv(64, 1), conv(96, 3, valid=True)),
        seven=chain(conv(64, 1), conv(64, (1, 7)), conv(64, (7, 1)), conv(96, 3, valid=True)),
    ),
)
TO_GRID35 = mixed(three=conv(192, 3, stride=2, valid=True), pool=MAX)

A = mixed(  # Fig. 4
    one=conv(96, 1),
    three=chain(conv(64, 1), conv(96, 3)),
    threes=chain(conv(64, 1), conv(96, 3), conv(96, 3)),
    pool=chain(AVERAGE, conv(96, 1)),
)
B = mixed(  # Fig. 5
    one=conv(384, 1),
    seven=chain(conv(192, 1), conv(224, (1, 7)), conv(256, (7, 1))),
    sevens=chain(conv(192, 1), conv(192, (7, 1)), conv(224, (1, 7)), conv(224, (7, 1)), conv(256, (1, 7))),
    pool=chain(AVERAGE, conv(128, 1)),
)
C = mixed(  # Fig. 6
    one=conv(256, 1),
    three=chain(conv(384, 1), fork(256)),
    threes=chain(conv(384, 1), conv(448, (3, 1)), conv(512, (1, 3)), fork(256)),
    pool=chain(AVERAGE, conv(256, 1)),
)


def reduction_a(k: int, l: int, m: int, n: int) -> Part:  # noqa: E741
    """From the 35 x 35 to the 17 x 17 grid (Fig. 7); Table 1 has k, l, m and n of each network."""
    return mixed(
        three=conv(n, 3, stride=2, valid=True),
        threes=chain(conv(k, 1), conv(l, 3), conv(m, 3, stride=2, valid=True)),
        pool=MAX,
    )


REDUCTION_B = mixed(  # Fig. 8
    three=chain(conv(192, 1), conv(192, 3, stride=2, valid=True)),
    seven=chain(conv(256, 1), conv(256, (1, 7)), conv(320, (7, 1)), conv(320, 3, stride=2, valid=True)),
    pool=MAX,
)

register(
    Inception,
    task="classify",
    canon="classification/inception",
    variants={
        "inception_v4": dict(  # Fig. 9
            stages=(
                STEM,
                chain(TO_GRID35, A, A, A, A),
                chain(reduction_a(192, 224, 256, 384), B, B, B, B, B, B, B),
                chain(REDUCTION_B, C, C, C),
            ),
            dropout=0.2,
        )
    },
)
