"""The keys of private swarms: who has one is a member (spec/swarm.md §1).

A *ring* is what a key file holds: the name of the swarm, and its keys, the newest first. Names and
proofs are one-way functions of a key, so they tell nobody anything who does not have it. A swarm
keeps its name when its key is changed; for a while, members then have two keys, and any that two of
them share will do.

The file is text, so that people can move it as they move other secrets:

    # The key of a private lattica swarm: who has it is a member. Keep it secret.
    swarm 2cpiwk3jxyzevs3mkgx4bkmpre
    key yqf5sd6x2…
    key 4nlrq2ogw… until 2026-12-03T09:00:00Z
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import os
import secrets
import stat
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lattica import codec
from lattica._base import base32_decode, base32_encode
from lattica.errors import CodecError, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY_BYTES = 32
NAME_BYTES = 16
MAX_KEYS = 4  # of one ring that are good at the same time
MAX_FILE = 64 << 10  # bytes
INVITE_PREFIX = "lattica-swarm:"
MAX_INVITE = 1024  # characters
_CHECK_BYTES = 4
_MAX_UNTIL = 253_402_300_799  # the end of the year 9999, in Unix seconds
_COMMENT = "# The key of a private lattica swarm: who has it is a member. Keep it secret.\n"
_EPOCH = datetime.fromtimestamp(0, UTC)
_log = logging.getLogger(__name__)


class SwarmKeyError(InvalidInput):
    """A key file, or an invitation, is not one, or must not be used as it is."""

    code = "swarm-key"
    hint = "get the file or the invitation again from a member; `lattica swarm new` makes a swarm"


@dataclass(frozen=True, slots=True, repr=False)
class SwarmKey:
    """A secret that the members of a swarm share.

    Attributes:
        secret: 32 random bytes.
        until: Unix time in seconds from which it proves nothing; None: for good.
    """

    secret: bytes
    until: float | None = None

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise SwarmKeyError(f"a swarm key of {len(self.secret)} bytes, expected {KEY_BYTES}")

    @classmethod
    def generate(cls) -> SwarmKey:
        """Return a new key."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @property
    def name(self) -> bytes:
        """A public name of the key: 16 bytes that only who has it can compute."""
        return self.derive("lattica swarm name 1")[:NAME_BYTES]

    def derive(self, purpose: str) -> bytes:
        """Return a secret of 32 bytes for one purpose."""
        return hmac.digest(self.secret, purpose.encode(), hashlib.sha256)

    def is_live(self, now: float) -> bool:
        """Whether it proves membership at `now`, in Unix seconds."""
        return self.until is None or now < self.until

    def __repr__(self) -> str:
        return f"SwarmKey({base32_encode(self.name)})"  # a log may not give the secret away


@dataclass(frozen=True, slots=True)
class KeyRing:
    """What a key file holds.

    Attributes:
        swarm: the name of the swarm, which stays: that of its first key.
        keys: the newest first; at least one.
    """

    swarm: bytes
    keys: tuple[SwarmKey, ...]

    @classmethod
    def generate(cls) -> KeyRing:
        """Return the ring of a new swarm."""
        key = SwarmKey.generate()
        return cls(key.name, (key,))

    @property
    def fingerprint(self) -> str:
        """The name of the swarm as text."""
        return base32_encode(self.swarm)

    def live(self, now: float) -> tuple[SwarmKey, ...]:
        """Return the keys that are good at `now`, in Unix seconds, the newest first."""
        return tuple(key for key in self.keys if key.is_live(now))[:MAX_KEYS]

    def rotated(self, *, overlap: float, now: float, key: SwarmKey | None = None) -> KeyRing:
        """Return the ring with a new key; the others are good for `overlap` more seconds.

        Raises:
            SwarmKeyError: more keys would be good at once than a proof has room for.
        """
        if not 0 <= overlap < _MAX_UNTIL - now:
            raise SwarmKeyError(f"an overlap of {overlap} seconds", hint="give a number of days")
        end = now + overlap
        old = [
            replace(entry, until=end if entry.until is None else min(entry.until, end))
            for entry in self.keys
            if entry.is_live(now)
        ]
        if len(old) >= MAX_KEYS:
            raise SwarmKeyError(
                f"{len(old)} keys are good already, limit {MAX_KEYS}",
                hint=f"wait until one ends: {_until_text(old[-1].until)}",
            )
        return KeyRing(self.swarm, (key or SwarmKey.generate(), *old))

    def joined(self, other: KeyRing) -> KeyRing:
        """Return the newer of two rings of one swarm: that whose newest key the other lacks.

        Raises:
            SwarmKeyError: they are of different swarms.
        """
        if self.swarm != other.swarm:
            raise SwarmKeyError(
                f"there is a key of swarm {self.fingerprint}, this is one of {other.fingerprint}",
                hint="choose another file with --swarm-key, or another --home",
            )
        known = {key.secret for key in self.keys}
        return self if other.keys[0].secret in known else other

    # the key file

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Read a key file. Raises SwarmKeyError."""
        swarm: bytes | None = None
        keys: list[SwarmKey] = []
        for number, line in enumerate(text.splitlines(), 1):
            match line.split():
                case [] | ["#", *_]:
                    continue
                case ["swarm", name] if swarm is None:
                    swarm = _bytes(name, NAME_BYTES, number)
                case ["key", secret]:
                    keys.append(SwarmKey(_bytes(secret, KEY_BYTES, number)))
                case ["key", secret, "until", end]:
                    keys.append(SwarmKey(_bytes(secret, KEY_BYTES, number), _time(end, number)))
                case _:
                    raise SwarmKeyError(f"line {number} is not one of a swarm key file")
        if swarm is None or not keys:
            raise SwarmKeyError("a swarm key file names a swarm and at least one key")
        return cls(swarm, tuple(keys))

    def __str__(self) -> str:
        lines = [f"swarm {self.fingerprint}\n"]
        for key in self.keys:
            end = "" if key.until is None else f" until {_until_text(key.until)}"
            lines.append(f"key {base32_encode(key.secret)}{end}\n")
        return _COMMENT + "".join(lines)

    # invitations

    def invite(self, now: float) -> str:
        """Return one line that makes whoever has it a member: the keys that are good now.

        Raises:
            SwarmKeyError: none is.
        """
        live = self.live(now)
        if not live:
            raise SwarmKeyError("every key of this swarm has ended", hint="`lattica swarm rotate`")
        pairs: list[codec.Value] = [
            [key.secret, None if key.until is None else int(key.until)] for key in live
        ]
        body = codec.pack([1, self.swarm, pairs])
        return INVITE_PREFIX + base32_encode(body + _checksum(body))

    @classmethod
    def from_invite(cls, text: str) -> KeyRing:
        """Read an invitation. Raises SwarmKeyError."""
        text = text.strip()
        if not text.startswith(INVITE_PREFIX) or len(text) > MAX_INVITE:
            raise SwarmKeyError(f"an invitation starts with `{INVITE_PREFIX}`")
        try:
            data = base32_decode(text[len(INVITE_PREFIX) :])
            value = codec.unpack(data[:-_CHECK_BYTES], max_size=MAX_INVITE)
        except (CodecError, InvalidInput) as error:
            raise SwarmKeyError(f"not an invitation: {error}") from None
        if _checksum(data[:-_CHECK_BYTES]) != data[-_CHECK_BYTES:]:
            raise SwarmKeyError("the invitation is damaged: a character was lost or changed")
        match value:
            case [1, bytes(swarm), list(pairs)] if len(swarm) == NAME_BYTES:
                keys = tuple(map(_invited, pairs))
                if 0 < len(keys) <= MAX_KEYS:
                    return cls(swarm, keys)
        raise SwarmKeyError("the invitation is of a form that is not known")


def _invited(pair: codec.Value) -> SwarmKey:
    match pair:
        case [bytes(secret), None]:
            return SwarmKey(secret)
        case [bytes(secret), int(end)] if type(end) is int and 0 <= end <= _MAX_UNTIL:
            return SwarmKey(secret, end)
    raise SwarmKeyError("the invitation holds what is no key")


class Membership(Protocol):
    """Where a node's swarm keys come from."""

    def live(self) -> Sequence[SwarmKey]:
        """Return the keys that are good now, the newest first."""


class SwarmKeyFile:
    """A key file in use: read again when it has changed, so that a node need not be restarted.

    Attributes:
        path: the file.
        ring: what it held when it was last read.
    """

    def __init__(self, path: Path) -> None:
        """Read the file. Raises SwarmKeyError."""
        self.path = path
        self.ring, self._seen = _read(path)

    def live(self) -> Sequence[SwarmKey]:
        """Return the keys that are good now. A file that has become unreadable is not believed."""
        try:
            if _stamp(os.stat(self.path)) != self._seen:
                ring, self._seen = _read(self.path)
                if ring.swarm == self.ring.swarm:
                    self.ring = ring
                    _log.info("read the keys of swarm %s again", ring.fingerprint)
                else:
                    _log.warning("%s is of another swarm now, and is not used", self.path)
        except (OSError, SwarmKeyError) as error:
            _log.warning("the swarm key file cannot be read again: %s", error)
        return self.ring.live(time.time())


def write_ring(path: Path, ring: KeyRing, *, new: bool = False) -> None:
    """Write a key file, whole or not at all, for its owner alone.

    Raises:
        SwarmKeyError: with `new`, there is one already; or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if new and path.exists():
            raise SwarmKeyError(f"{path} exists", hint="choose another file with --swarm-key")
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(str(ring))
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SwarmKeyError(
            f"cannot write {path}: {error.strerror}", hint="choose a folder that you own"
        ) from error


def read_ring(path: Path) -> KeyRing:
    """Read a key file. Raises SwarmKeyError, also where others than its owner may read it."""
    return _read(path)[0]


def _read(path: Path) -> tuple[KeyRing, tuple[int, ...]]:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise SwarmKeyError(f"cannot read the swarm key {path}: {error.strerror}") from error
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise SwarmKeyError(
            f"others may read the swarm key {path}", hint=f"chmod 600 {path}; then change the key"
        )
    if len(data) > MAX_FILE:
        raise SwarmKeyError(f"{path} is larger than {MAX_FILE} bytes")
    try:
        return KeyRing.parse(data.decode()), _stamp(status)
    except UnicodeDecodeError:
        raise SwarmKeyError(f"{path} is not text") from None
    except SwarmKeyError as error:
        raise SwarmKeyError(f"{path}: {error}", hint=error.hint) from None


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _bytes(text: str, size: int, line: int) -> bytes:
    try:
        data = base32_decode(text)
    except InvalidInput:
        data = b""
    if len(data) != size:
        raise SwarmKeyError(f"line {line}: expected {size} bytes in base32")
    return data


def _time(text: str, line: int) -> float:
    wrong = SwarmKeyError(f"line {line}: {text!r} is no time with a time zone")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise wrong from None
    if moment.tzinfo is None:
        raise wrong
    return math.floor((moment - _EPOCH).total_seconds())


def _until_text(until: float | None) -> str:
    if until is None:
        return "never"
    return datetime.fromtimestamp(math.floor(until), UTC).isoformat().replace("+00:00", "Z")


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECK_BYTES]
