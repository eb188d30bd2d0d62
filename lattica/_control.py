"""The control socket, as bytes and from the asking side: how commands use the node that runs.

A connection carries one request and its answers, each one line of JSON:

    > {"method": "get", "params": {"ref": "bafy…"}}
    < {"progress": {…}}                               none or many
    < {"result": {…}}    or    {"error": {…}}         the last line

Closing the connection cancels the request. The socket lies in the home with mode 0600: whoever can
open it could as well read the key. Still every line is bounded and every field is checked.

This half blocks and imports next to nothing, because `lattica ls` should take no longer than it
must; the node's half is `_control_server`.
"""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lattica._home import Home, short_socket_path
from lattica.errors import CodecError, InvalidInput, LatticaError, LimitExceeded, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MAX_REQUEST = 1 << 16  # bytes of a line that asks
MAX_ANSWER = 1 << 24  # bytes of a line that answers: `ls` with 50 000 objects
_CHUNK = 1 << 16
_CONNECT_TIMEOUT_S = 5.0


class NodeNotRunning(Unreachable):
    """The command needs a running node, and none runs on this home."""

    code = "node-not-running"
    hint = "start one with `lattica up`, in another shell or as a service"


class ControlError(CodecError):
    """A line on the control socket is not what it must be."""

    code = "control"
    hint = "the command and the running node may be of different versions: restart the node"


class RemoteError(LatticaError):
    """The running node could not do what was asked.

    Attributes:
        report: the error as the node describes it, see `describe`.
    """

    code = "remote"

    def __init__(self, report: dict[str, Any]) -> None:
        super().__init__(str(report.get("message")), hint=str(report.get("hint")))
        self.report = report


@dataclass(frozen=True, slots=True)
class Request:
    """What a command asks of the running node."""

    method: str
    params: Mapping[str, Any] = field(default_factory=dict)


def encode_line(value: Mapping[str, Any], limit: int = MAX_ANSWER) -> bytes:
    """Return `value` as a line. Raises LimitExceeded."""
    line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    if len(line) > limit:
        raise LimitExceeded(f"a message of {len(line)} bytes on the control socket, limit {limit}")
    return line


def decode_line(line: bytes) -> dict[str, Any]:
    """Read a line. Raises ControlError."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ControlError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ControlError("not a JSON object")
    return value


def decode_request(line: bytes) -> Request:
    """Read a request. Raises ControlError."""
    value = decode_line(line)
    method, params = value.get("method"), value.get("params", {})
    if not isinstance(method, str) or not isinstance(params, dict):
        raise ControlError("a request has a `method` and `params`")
    return Request(method, params)


def describe(error: LatticaError) -> dict[str, Any]:
    """Return an error as JSON: what `--json` prints and the control socket carries."""
    if isinstance(error, RemoteError):
        return error.report
    return {
        "code": error.code,
        "message": str(error),
        "hint": error.hint,
        "exit_code": error.exit_code,
        "retryable": error.retryable,
        "peer": None if error.peer is None else str(error.peer),
        "cid": None if error.cid is None else str(error.cid),
    }


@contextlib.contextmanager
def connect(home: Home) -> Iterator[ControlClient | None]:
    """Connect to the node that runs on `home`; give None when there is none."""
    connection = _open(home)
    if connection is None:
        yield None
        return
    with connection:
        yield ControlClient(connection)


def _open(home: Home) -> socket.socket | None:
    if not hasattr(socket, "AF_UNIX"):
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_CONNECT_TIMEOUT_S)
        with short_socket_path(home.control) as path:
            connection.connect(path)
        connection.settimeout(None)
    except OSError:  # no socket, or one that a killed node left behind
        connection.close()
        return None
    return connection


class ControlClient:
    """The asking side of one connection: good for one `call`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def call(
        self, request: Request, on_progress: Callable[[dict[str, Any]], object] | None = None
    ) -> Any:
        """Send the request and wait for its result, which is JSON.

        Raises:
            RemoteError: the node answered with an error.
            Unreachable: the node went away.
            ControlError: it answered with something else.
        """
        line = encode_line({"method": request.method, "params": request.params}, MAX_REQUEST)
        try:
            self._connection.sendall(line)
            while True:
                answer = decode_line(self._read_line())
                if "result" in answer:
                    return answer["result"]
                if isinstance(answer.get("error"), dict):
                    raise RemoteError(answer["error"])
                if on_progress is not None and isinstance(answer.get("progress"), dict):
                    on_progress(answer["progress"])
        except OSError as error:
            raise Unreachable(f"the running node went away: {error.strerror}") from error

    def _read_line(self) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_ANSWER:
                raise ControlError(f"a line of more than {MAX_ANSWER} bytes")
            data = self._connection.recv(_CHUNK)
            if not data:
                raise Unreachable(
                    "the running node stopped before it answered",
                    hint="start it again and repeat the command: what was fetched is kept",
                )
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line


class UnknownMethod(InvalidInput):
    """The running node does not know the command."""

    code = "unknown-method"
    hint = "the running node may be older than the command: restart it"
