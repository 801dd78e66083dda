"""`cnnkit explain`: what happens inside a trained network."""

import dataclasses
from pathlib import Path

import click

from cnnkit.cli.output import as_json, emit
from cnnkit.errors import Misuse


class Index(click.ParamType[tuple[int, ...]]):
    """Whole numbers between commas: `3,4`."""

    name = "index"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """`3,4` -> (3, 4)"""
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 3,4", param, ctx)


@click.group("explain", short_help="Show what happens inside a trained network.")
def command() -> None:
    """Show what happens inside a trained network.

    \b
    Examples:
      cnnkit explain arithmetic runs/classify/lenet5-digits digit.png --layer stages.0.0 --at 3,4
      cnnkit explain arithmetic --help
    """


@command.command("arithmetic", short_help="One number that a layer gives, written out.")
@click.argument("run", metavar="RUN_OR_ARTEFACT")
@click.argument("image", metavar="IMAGE")
@click.option("--layer", metavar="NAME", help="Dotted name of a convolution or linear layer. [the first]")
@click.option("--at", type=Index(), metavar="Y,X", help="Position in its output; a linear layer has none.")
@click.option(
    "--channel", type=click.IntRange(0), metavar="N", default=0, show_default=True, help="Output channel."
)
@click.option("--entry", type=Index(), metavar="O,C,Y,X", help="Entry of its kernel: print its gradient too.")
@as_json
def arithmetic(
    run: str,
    image: str,
    layer: str | None,
    at: tuple[int, ...] | None,
    channel: int,
    entry: tuple[int, ...] | None,
    as_json: bool,
) -> None:
    """Print the whole computation of one output value of a layer: window, kernel, products, sums.

    \b
    Examples:
      cnnkit explain arithmetic runs/classify/lenet5-digits digit.png --layer stages.0.0 --at 3,4
      cnnkit explain arithmetic best.safetensors digit.png --at 3,4 --entry 0,0,2,2

    With --entry the gradient of one kernel entry is printed as well, of the loss that the network would have
    if its own answer were the right one.
    """
    from torch import nn
    from torch.nn import functional

    from cnnkit.data.pictures import fit, read, to_tensor
    from cnnkit.explain.arithmetic import gradient_entry, output_value
    from cnnkit.tasks import load

    network = load(run)
    to = network.card.preprocessing
    pixels = to.normalise(to_tensor(fit(read(Path(image)), to), to)[None])[0]
    layers = [n for n, m in network.model.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Linear)]
    try:
        name = layer or layers[0]
        found = [output_value(network.model, name, pixels, at=at or (), channel=channel)]
        text = [found[0].text()]
        if entry is not None:
            answer = network.model(pixels[None]).argmax(dim=1)
            made = gradient_entry(
                network.model, name, pixels, lambda out: functional.cross_entropy(out, answer), entry=entry
            )
            text.append(made.text())
    except (LookupError, ValueError) as error:
        reason = str(error.args[0] if error.args else error)
        raise Misuse(f"{reason}; layers that can be shown: {', '.join(layers)}") from None
    if as_json:
        result = {"value": dataclasses.asdict(found[0])}
        emit(result | ({"gradient": dataclasses.asdict(made)} if entry is not None else {}))
    else:
        click.echo("\n\n".join(text))
