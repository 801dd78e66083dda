"""The command line: one file a verb, imported when it is called, and torch when there is work for it."""

import sys
import warnings
from importlib import import_module

import click

from cnnkit.errors import Failure, Stopped

#: Verb -> what it does; the file of the same name has its command.
VERBS = {
    "train": "Train a network on your images.",
    "evaluate": "Score a trained network on a data set.",
    "predict": "Say what is on pictures.",
    "check": "Find what would spoil a training run.",
    "augment": "Show what augmentation does to an image.",
    "inspect": "Say what a network holds, costs and sees.",
    "explain": "Show what happens inside a trained network.",
    "models": "List the networks there are.",
    "recipes": "List the recipes there are.",
    "verify": "Compare networks with their papers.",
    "reproduce": "Try the papers' claims.",
}


class Verbs(click.Group):
    """Commands that are imported only when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of the work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"cnnkit.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing any."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="cnnkit")
def cli() -> None:
    """The canon of convolutional networks as one working, verified system.

    \b
    Examples:
      cnnkit train digits --model lenet5
      cnnkit predict runs/classify/lenet5-digits picture.png
      cnnkit train photos/ --model resnet18 --weights torchvision
      cnnkit inspect resnet50

    `cnnkit VERB --help` says more, with examples.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 failed, 2 misused, 3 a check did not pass, 130 interrupted."""
    # Pillow takes photos of 89 megapixels for an attack, and refuses those of twice as many by itself.
    warnings.filterwarnings("ignore", "Image size .* exceeds limit of .* pixels, could be decompression bomb")
    try:
        code = cli.main(arguments, prog_name="cnnkit", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = 2
    except Failure as error:
        click.echo(f"error: {error}", err=True)
        code = error.code
    except Stopped as stop:
        click.echo(str(stop), err=True)
        code = stop.code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    sys.exit(code if isinstance(code, int) else 0)
