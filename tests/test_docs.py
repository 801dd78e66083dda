"""What the README, docs/ and the help texts say: commands are understood, links lead somewhere."""

import doctest
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.parse import unquote

import click
import pytest
import torch

from cnnkit import canon, registry
from cnnkit.cli import VERBS, cli
from cnnkit.cli.output import require_known
from cnnkit.cli.train import assignments
from cnnkit.train.recipe import Recipe, make, merged
from cnnkit.train.recipes import find

ROOT = Path(__file__).parents[1]
PAGES = {
    str(page.relative_to(ROOT)): page.read_text("utf-8")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}

#: What stands in a page for a value of the reader's.
THEIRS = {"SEED": "3", "NETWORK": "unet", "N": "3"}


def commands(text: str) -> Iterator[list[str]]:
    """The words behind `cnnkit` of every command that has a line of its own; one with [ ] is a form."""
    for line in re.findall(r"^ *(?:\$ )?((?:torchrun .*-m )?cnnkit .*)", text.replace("\\\n", " "), re.M):
        words = shlex.split(line.partition(" > ")[0], comments=True)
        words = words[words.index("cnnkit") + 1 :]
        if words and not any(word.startswith(("[", "VERB")) for word in words):
            yield [THEIRS.get(word, word) for word in words]


def parsed(words: list[str]) -> tuple[click.Command, click.Context]:
    """A command line as it is understood; nothing is done.

    Raises:
        click.ClickException: it is not.
    """
    command, context = command_of(words)
    return command, command.make_context(command.name, rest(words), parent=context)


def command_of(words: list[str]) -> tuple[click.Command, click.Context]:
    """The command that the first words name."""
    command: click.Command = cli
    context = click.Context(cli)
    for word in words:
        if not isinstance(command, click.Group):
            break
        found = command.get_command(context, word)
        if found is None:
            raise click.UsageError(f"there is no command {word}")
        command = found
    return command, context


def rest(words: list[str]) -> list[str]:
    """The words behind the command's name."""
    return words[2:] if words[0] in ("explain", "reproduce") else words[1:]


def helps() -> dict[str, str]:
    """Help texts by verb, and by command where a verb has several."""
    found = {}
    for verb in VERBS:
        command, _ = command_of([verb])
        found[verb] = command.help or ""
        if isinstance(command, click.Group):
            found |= {f"{verb} {name}": inner.help or "" for name, inner in command.commands.items()}
    return {f"{name} --help": text for name, text in found.items()} | {"--help": cli.help or ""}


@pytest.mark.parametrize(("where", "text"), [pytest.param(w, t, id=w) for w, t in (PAGES | helps()).items()])
def test_every_command_that_is_written_out_is_understood(where: str, text: str) -> None:
    for words in commands(text):
        if words[-1] == "--help":
            command_of(words)
            continue
        try:
            command, context = parsed(words)
            if command.name == "train":
                recipe_of(context.params)
        except click.ClickException as error:
            pytest.fail(f"{where}: cnnkit {shlex.join(words)}: {error.format_message()}")


def recipe_of(given: dict[str, object]) -> Recipe:
    """What a training command asks for; a network or a setting that is not there is an error."""
    name = given["recipe_name"]
    own = {"data", "source", "recipe_name", "pairs", "output", "data_dir", "resume", "overwrite"}
    own |= {"skip_bad", "as_json", "quiet"}
    flags = {key: value for key, value in given.items() if value is not None and key not in own}
    settings = find(str(name)) if name and not str(name).endswith(".toml") else {}
    recipe = make(merged(settings, {**flags, **assignments(given["pairs"])}), "the command")  # type: ignore[arg-type]
    require_known(recipe.model)
    return recipe


def test_the_readme_can_be_followed_without_a_run_that_is_in_the_way() -> None:
    runs = []
    for words in commands(PAGES["README.md"]):
        if words[0] == "train" and "--resume" not in words:
            _, context = parsed(words)
            runs.append((recipe_of(context.params).model, context.params["source"]))
    assert len(runs) > 4
    assert len(set(runs)) == len(runs)


@pytest.mark.parametrize("where", PAGES)
def test_every_flag_that_is_named_in_a_sentence_is_one_of_its_command(where: str) -> None:
    for fragment in re.findall(r"`cnnkit ([a-z]+ [^`]*)`", PAGES[where]):
        words = fragment.split()
        command, context = command_of(words)
        flags = {flag for p in command.get_params(context) for flag in p.opts}
        used = {word.strip("[],").partition("=")[0] for word in words if word.strip("[").startswith("--")}
        assert used <= flags, f"{where}: cnnkit {fragment}"


@pytest.mark.parametrize("where", PAGES)
def test_every_link_leads_to_a_file_that_is_there(where: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[where]):
        if not target.startswith(("http://", "https://")):
            file = (ROOT / where).parent / unquote(target.partition("#")[0])
            assert file.exists(), f"{where} links to {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, ahead = set(), ["README.md"]
    while ahead:
        where = ahead.pop()
        seen.add(where)
        for target in re.findall(r"\]\(([^)\s#]+\.md)[^)]*\)", PAGES[where]):
            page = str(((ROOT / where).parent / target).resolve().relative_to(ROOT))
            ahead += [page] if page not in seen else []
    assert seen == set(PAGES)


def test_the_network_of_one_s_own_is_one_that_the_registry_and_the_canon_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocks = dict(re.findall(r"^   ```(python|toml)\n(.*?)^   ```", PAGES["docs/python.md"], re.M | re.S))
    monkeypatch.setattr(registry, "_specs", {})
    exec(dedent(blocks["python"]), {"__name__": "mine"})
    network: Any = registry.create("mine", num_classes=3, in_channels=1)
    images = torch.rand(2, 1, 32, 32)
    assert network(images).shape == (2, 3)
    assert tuple(m.shape[1] for m in network.features(images)) == network.feature_channels
    facts = tomllib.loads(dedent(blocks["toml"]))
    monkeypatch.setattr(canon, "facts", lambda family: facts)
    assert canon.entry(registry.spec("mine").canon, "mine").input == (3, 32, 32)


@pytest.mark.parametrize("where", [w for w, text in PAGES.items() if ">>> " in text])
def test_what_an_example_prints_is_what_it_gives(where: str) -> None:
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGES[where], re.M | re.S))
    found = doctest.DocTestRunner().run(doctest.DocTestParser().get_doctest(code, {}, where, where, 0))
    assert found.attempted
    assert not found.failed
