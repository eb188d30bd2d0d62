"""What all commands have in common: their options, their help, and what they refuse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from lattica.cli._app import app
from lattica.cli._command import command
from lattica.cli._session import Session

if TYPE_CHECKING:
    from pathlib import Path


def pages() -> dict[str, str]:
    """Every command's name, and its help in a terminal of 80 columns."""
    found: dict[str, str] = {}
    names: list[tuple[str, ...]] = [()]
    while names:
        name = names.pop()
        text = CliRunner().invoke(app, [*name, "--help"], env={"COLUMNS": "80"}).stdout
        found[" ".join(name)] = text
        listed = text.partition("\nCommands:\n")[2].partition("\n\n")[0]
        names += [(*name, line.split()[0]) for line in listed.splitlines() if line[2:3] != " "]
    return found


PAGES = pages()


def test_a_command_is_handed_a_session_of_the_options_it_names(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    @command("home", "listen", "as_json")
    def greet(
        session: Session, name: str, often: Annotated[int, typer.Option("--often")] = 1
    ) -> None:
        """Greet somebody."""
        seen.update(name=name, often=often, listen=session.config.texts("listen"))
        seen.update(home=session.home.path)
        session.output.result({"greeted": name})

    one = typer.Typer()
    one.command()(greet)
    given = ["ada", "--often", "2", "--home", str(tmp_path), "--listen", "/ip4/127.0.0.1/tcp/0"]
    result = CliRunner().invoke(one, [*given, "--json"])
    assert json.loads(result.stdout) == {"greeted": "ada"}
    assert seen.pop("home") == tmp_path
    assert seen == {"name": "ada", "often": 2, "listen": ("/ip4/127.0.0.1/tcp/0",)}
    assert CliRunner().invoke(one, ["ada", "--quota", "1G"]).exit_code == 2


def test_a_common_option_that_is_none_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="colour"):
        command("home", "colour")


def test_one_json_object_and_json_lines_exclude_each_other() -> None:
    result = CliRunner().invoke(app, ["dht", "put", "/lattica/k", "v", "--json", "--json-lines"])
    assert result.exit_code == 2
    assert "exclude each other" in result.output


@pytest.mark.parametrize("before", [["share"], ["publish", "name"], ["index"]])
def test_an_empty_path_is_not_the_current_directory(before: list[str]) -> None:
    result = CliRunner().invoke(app, [*before, ""])
    assert result.exit_code == 2
    assert "path '' does not exist" in result.output


@pytest.mark.parametrize("name", PAGES)
def test_what_a_command_is_for_fits_a_line_of_a_terminal(name: str) -> None:
    listed = PAGES[name].partition("\nCommands:\n")[2]
    assert not [line for line in listed.splitlines() if line.endswith("...")]


@pytest.mark.parametrize("name", PAGES)
def test_every_option_says_what_it_takes_and_why(name: str) -> None:
    assert "<str>" not in PAGES[name].partition("\nOptions:\n")[2]
    assert "<int" not in PAGES[name]
