"""Settings come from four places, the nearest wins, and each says where it came from."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from lattica.config import KEYS, Config, ConfigError, Value, load, parse_log, resolve

USER = Path("/users/ada")


def settle(
    file: str = "",
    environment: dict[str, str] | None = None,
    flags: dict[str, Value | None] | None = None,
) -> Config:
    return resolve(file.encode(), environment or {}, flags or {}, user_home=USER)


def test_without_anything_the_defaults_hold() -> None:
    config = settle()
    assert config.home == USER / ".lattica"
    assert {name: setting.value for name, setting in config.settings.items()} == {
        name: key.default for name, key in KEYS.items()
    }
    assert {setting.origin for setting in config.settings.values()} == {"default"}


def test_flags_win_over_the_environment_over_the_file() -> None:
    file = '[node]\nlog = "info"\nmdns = false\nbootstrap = ["/ip4/192.0.2.1/tcp/1"]\n'
    environment = {"LATTICA_LOG": "debug", "LATTICA_MDNS": "on"}
    config = settle(file, environment, {"log": "error", "mdns": None})
    assert (config.text("log"), config.settings["log"].origin) == ("error", "--log")
    assert (config.flag("mdns"), config.settings["mdns"].origin) == (True, "LATTICA_MDNS")
    assert config.texts("bootstrap") == ("/ip4/192.0.2.1/tcp/1",)
    assert config.settings["bootstrap"].origin == "/users/ada/.lattica/lattica.toml [node]"


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ('[node]\nboostrap = ["x"]', "did you mean 'bootstrap'"),
        ("[nod]\nmdns = true", "did you mean 'node'"),
        ("mdns = true", r"belongs under \[node\]"),
        ("[mesh]\nmdns = true", r"unknown section \[mesh\]"),
        ("[node]\nzebra = 1", "known: announce, bootstrap, compress"),
        ('[node]\nmdns = "yes"', "expected true or false"),
        ('[node]\nbootstrap = "x"', "expected a list of strings"),
        ("[node]\nbootstrap = [1]", "expected a list of strings"),
        ("[node]\nlog = 3", "expected a string"),
        ('[node]\nlog = "lots"', "log level 'lots'"),
        ('[node]\ncompress = "yes"', "expected one of auto, on, off"),
        ("[node", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_what_to_write_instead(file: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        settle(file)
    assert "lattica.toml" in str(caught.value), "say where"
    assert caught.value.exit_code == 2


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(ConfigError, match="LATTICA_MDNS is 'maybe', expected on or off"):
        settle(environment={"LATTICA_MDNS": "maybe"})


def test_an_empty_variable_or_a_flag_not_given_sets_nothing() -> None:
    config = settle(environment={"LATTICA_LOG": " "}, flags={"listen": None, "mdns": None})
    assert {setting.origin for setting in config.settings.values()} == {"default"}


@pytest.mark.parametrize("text", ["/a /b", "/a,/b", " /a, /b "])
def test_lists_in_the_environment_are_split(text: str) -> None:
    assert settle(environment={"LATTICA_BOOTSTRAP": text}).texts("bootstrap") == ("/a", "/b")


def test_the_home_comes_from_the_flag_or_the_environment_and_is_absolute() -> None:
    assert settle(flags={"home": "~/lab"}).home == USER / "lab"
    assert settle(environment={"LATTICA_HOME": "/srv/l"}).home == Path("/srv/l")
    config = settle(environment={"LATTICA_HOME": "/srv/l"}, flags={"home": "here"})
    assert (config.home, config.home_origin) == (Path("here").absolute(), "--home")


def test_the_file_is_read_from_the_home(tmp_path: Path) -> None:
    (tmp_path / "lattica.toml").write_text('[node]\nswarm = "lab"\n')
    config = load({"LATTICA_HOME": str(tmp_path)}, {}, user_home=USER)
    assert config.text("swarm") == "lab"


def test_an_unreadable_or_huge_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lattica.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot read"):
        load({"LATTICA_HOME": str(tmp_path)}, {}, user_home=USER)
    (tmp_path / "lattica.toml").rmdir()
    (tmp_path / "lattica.toml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load({"LATTICA_HOME": str(tmp_path)}, {}, user_home=USER)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_file_is_settings_or_a_config_error(data: bytes) -> None:
    try:
        config = resolve(data, {}, {}, user_home=USER)
    except ConfigError:
        return
    assert set(config.settings) == set(KEYS)


def test_log_levels_may_differ_by_layer() -> None:
    assert parse_log("info, transport=DEBUG") == {"": "info", "transport": "debug"}


def test_an_empty_list_from_a_program_overrides_the_environment() -> None:
    settings = settle(environment={"LATTICA_BOOTSTRAP": "/a"}, flags={"bootstrap": ()})
    assert settings.texts("bootstrap") == ()


def test_a_rate_limit_is_read_from_everywhere_and_checked() -> None:
    environment = {"LATTICA_MAX_UP_PER_PEER": "1.5M"}
    read = settle('[limits]\nmax_up = "500K"\n', environment, {"max_down": "2 MiB/s"})
    assert read.rate("max_up") == 500_000
    assert read.rate("max_down") == 2 << 20
    assert read.rate("max_up_per_peer") == 1_500_000
    assert read.rate("max_down_per_peer") is None
    assert read.settings["max_down"].origin == "--max-down"
    for wrong in ("fast", "0", "-1M", "5X"):
        with pytest.raises(ConfigError, match=r"--max-up: .* 5M"):
            settle(flags={"max_up": wrong})
