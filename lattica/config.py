"""Settings, each with the place it came from: defaults < `lattica.toml` < environment < flags.

`resolve` is pure: it is given the file's text, the environment and the flags. A key that nobody
knows is an error with a suggestion, because a misspelt limit that is silently ignored is no limit.
`home` itself cannot stand in the file, which lies in the home.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lattica._sizes import SizeError, parse_rate, parse_size
from lattica.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FILE_NAME = "lattica.toml"
MAX_FILE = 1 << 20  # bytes
RATES = ("max_up", "max_down", "max_up_per_peer", "max_down_per_peer")
LOG_LEVELS = ("error", "warning", "info", "debug")
COMPRESS = ("auto", "on", "off")

Value = str | bool | tuple[str, ...]


class ConfigError(InvalidInput):
    """A setting is unknown or has a value that it cannot have."""

    code = "config"
    hint = "correct it where the message says; nothing was started"


@dataclass(frozen=True, slots=True)
class Key:
    """One setting there is.

    Attributes:
        name: as flags and Python spell it.
        section: the table of `lattica.toml` it stands in.
        default: its value when nobody sets it.
        meaning: one line for people.
        entry: what it is called in `lattica.toml`, where not by its name.
        suffix: what the environment variable ends with beside its name.
    """

    name: str
    section: str
    default: Value
    meaning: str
    entry: str = ""
    suffix: str = ""

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"LATTICA_{self.name.upper()}{self.suffix}"


KEYS = {
    key.name: key
    for key in (
        Key("listen", "node", (), "addresses to listen on; none: every interface, the last port"),
        Key("announce", "node", (), "addresses to tell others instead of those found"),
        Key("bootstrap", "node", (), "addresses of peers to join the network through"),
        Key("mdns", "node", True, "find peers on the local network"),
        Key("log", "node", "warning", "error, warning, info or debug; LAYER=LEVEL for one layer"),
        Key(
            "compress", "node", "auto", "leaves on the wire: on, off, auto (where the link is slow)"
        ),
        Key("quota", "store", "", "what the store may keep of its own: 50G; empty: no bound"),
        Key("dht_protocol", "node", "/lattica/kad/1.0.0", "which DHT: its protocol ID"),
        Key("max_up", "limits", "", "content sent in a second, in all: 5M; empty: no limit"),
        Key("max_down", "limits", "", "content fetched in a second, in all"),
        Key("max_up_per_peer", "limits", "", "content sent to one peer in a second"),
        Key("max_down_per_peer", "limits", "", "content fetched from one peer in a second"),
        Key("use_origin", "node", False, "read the origins that tickets name, if no peer serves"),
        Key("swarm", "node", "public", "whose announcements of shares are heard and made"),
        Key(
            "swarm_key",
            "swarm",
            "",
            "key file of a private swarm; none: HOME/swarm.key if it is there",
            entry="key",
            suffix="_FILE",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it came from: `default`, a file, an environment variable or a flag."""

    value: Value
    origin: str


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting, resolved.

    Attributes:
        home: the folder with the key, the store and `lattica.toml`.
        home_origin: where that came from.
        settings: the others, by name, all of `KEYS`.
    """

    home: Path
    home_origin: str
    settings: Mapping[str, Setting]

    def text(self, name: str) -> str:
        """The value of a text setting."""
        value = self.settings[name].value
        assert isinstance(value, str), name
        return value

    def rate(self, name: str) -> float | None:
        """The value of a limit, in bytes a second; None where there is none."""
        text = self.text(name)
        return parse_rate(text) if text else None

    def flag(self, name: str) -> bool:
        """The value of a yes-or-no setting."""
        value = self.settings[name].value
        assert isinstance(value, bool), name
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """The value of a list setting."""
        value = self.settings[name].value
        assert isinstance(value, tuple), name
        return value


def load(
    environment: Mapping[str, str], flags: Mapping[str, Value | None], *, user_home: Path
) -> Config:
    """Read the home's `lattica.toml`, if there is one, and resolve. Raises ConfigError."""
    home, _ = find_home(environment, flags, user_home=user_home)
    path = home / FILE_NAME
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_FILE:
        raise ConfigError(f"{path} is larger than {MAX_FILE} bytes")
    return resolve(data, environment, flags, user_home=user_home)


def find_home(
    environment: Mapping[str, str], flags: Mapping[str, Value | None], *, user_home: Path
) -> tuple[Path, str]:
    """Return the home folder, absolute, and where it was said."""
    flag = flags.get("home")
    if isinstance(flag, str) and flag:
        text, origin = flag, "--home"
    elif environment.get("LATTICA_HOME"):
        text, origin = environment["LATTICA_HOME"], "LATTICA_HOME"
    else:
        return user_home / ".lattica", "default"
    path = Path(text)
    if path.parts and path.parts[0] == "~":
        path = user_home.joinpath(*path.parts[1:])
    return path.absolute(), origin


def resolve(
    file: bytes,
    environment: Mapping[str, str],
    flags: Mapping[str, Value | None],
    *,
    user_home: Path,
) -> Config:
    """Return every setting with its origin.

    Args:
        file: the contents of `lattica.toml`; empty when there is none.
        environment: variables; those that are not ours are ignored.
        flags: by setting name, and `home`; None means not given.
        user_home: where `~` leads.

    Raises:
        ConfigError: an unknown key in the file, or a value of the wrong kind anywhere.
    """
    home, home_origin = find_home(environment, flags, user_home=user_home)
    found = {name: Setting(key.default, "default") for name, key in KEYS.items()}
    found.update(_from_file(file, home / FILE_NAME))
    for key in KEYS.values():
        if text := environment.get(key.variable, "").strip():
            found[key.name] = Setting(_from_text(key, text), key.variable)
    for name, value in flags.items():
        if value is None or name == "home":
            continue
        if name not in KEYS:
            raise ConfigError(f"unknown setting {name!r}{_suggest(name, KEYS)}")
        origin = f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
        found[name] = Setting(_checked(KEYS[name], value, origin), origin)
    return Config(home, home_origin, found)


def _from_file(data: bytes, path: Path) -> dict[str, Setting]:
    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    sections = {key.section for key in KEYS.values()}
    found = {}
    for section, table in document.items():
        if section not in sections or not isinstance(table, dict):
            home = next((key for key in KEYS.values() if key.name == section), None)
            where = f"; it belongs under [{home.section}]" if home else _suggest(section, sections)
            raise ConfigError(f"{path}: unknown section [{section}]{where}")
        known = {key.entry or key.name: key for key in KEYS.values() if key.section == section}
        for name, raw in table.items():
            if name not in known:
                raise ConfigError(f"{path}: unknown key {name!r} in [{section}]{_where(name)}")
            value = tuple(raw) if isinstance(raw, list) else raw
            origin = f"{path} [{section}]"
            found[known[name].name] = Setting(_checked(known[name], value, origin), origin)
    return found


def _where(name: str) -> str:
    if name in KEYS:
        return f"; it belongs under [{KEYS[name].section}]"
    return _suggest(name, KEYS)


def _suggest(name: str, known: Mapping[str, object] | set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _from_text(key: Key, text: str) -> Value:
    if isinstance(key.default, tuple):
        return _checked(key, tuple(text.replace(",", " ").split()), key.variable)
    if isinstance(key.default, bool):
        words = {"1": True, "true": True, "yes": True, "on": True}
        words |= {"0": False, "false": False, "no": False, "off": False}
        if text.lower() not in words:
            raise ConfigError(f"{key.variable} is {text!r}, expected on or off")
        return words[text.lower()]
    return _checked(key, text, key.variable)


def _checked(key: Key, value: object, origin: str) -> Value:
    kind = type(key.default)
    right = isinstance(value, kind) and (
        not isinstance(value, tuple) or all(isinstance(item, str) for item in value)
    )
    if not right:
        expected = {tuple: "a list of strings", bool: "true or false", str: "a string"}[kind]
        raise ConfigError(f"{origin}: {key.name} is {value!r}, expected {expected}")
    check = _CHECKS.get(key.name)
    if check is not None and isinstance(value, str):
        check(value, origin)
    return value  # type: ignore[return-value]  # its type was compared with the default's


def parse_log(text: str, origin: str = "log") -> dict[str, str]:
    """Return log levels by layer (`""` is everything) of `info` or `info,transport=debug`.

    Raises:
        ConfigError: a level that does not exist.
    """
    levels = {}
    for item in text.split(","):
        layer, _, level = item.strip().rpartition("=")
        if level.lower() not in LOG_LEVELS:
            raise ConfigError(f"{origin}: log level {level!r}{_suggest(level, set(LOG_LEVELS))}")
        levels[layer.strip()] = level.lower()
    return levels


def _check_compress(text: str, origin: str) -> None:
    if text not in COMPRESS:
        raise ConfigError(f"{origin}: compress is {text!r}, expected one of {', '.join(COMPRESS)}")


def parse_quota(text: str, origin: str = "quota") -> int | None:
    """Return a quota in bytes; None of an empty text. Raises ConfigError."""
    try:
        return parse_size(text) if text.strip() else None
    except SizeError as error:
        raise ConfigError(f"{origin}: {error}", hint=error.hint) from None


def _check_protocol(text: str, origin: str) -> None:
    if not text.startswith("/") or not text.isprintable() or " " in text or len(text) > 128:
        raise ConfigError(f"{origin}: {text!r} is not a protocol ID such as /my-swarm/kad/1.0.0")


def _check_rate(text: str, origin: str) -> None:
    try:
        if text:
            parse_rate(text)
    except SizeError as error:
        raise ConfigError(f"{origin}: {error}; {error.hint}") from None


_CHECKS: dict[str, Callable[[str, str], object]] = {
    "compress": _check_compress,
    "dht_protocol": _check_protocol,
    "log": parse_log,
    "quota": parse_quota,
    **dict.fromkeys(RATES, _check_rate),
}
