"""TCP links: sockets tuned for a few long-lived, multiplexed connections.

Nagle's algorithm is off, because a muxer writes whole frames; buffer sizes are left to the kernel,
whose tuning is switched off by setting them. What the network does not take yet is bounded instead:
frames that wait in the kernel cannot be overtaken by a ping or a small answer any more. A peer that
vanished without a word is found in two ways: keep-alive probes on an idle socket, and a bound on
how long sent bytes may stay unacknowledged. The muxer's own pings come on top; they also find a
process that hangs.

Names are resolved at each dial, and their addresses raced like those of a peer.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import socket
from typing import TYPE_CHECKING

import trio

from lattica.errors import InvalidInput, Unreachable

from ._race import AllFailed, race
from .multiaddr import Multiaddr

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_FAMILIES = {
    "ip4": socket.AF_INET,
    "ip6": socket.AF_INET6,
    "dns": socket.AF_UNSPEC,
    "dns4": socket.AF_INET,
    "dns6": socket.AF_INET6,
}
_MAX_RESOLVED = 4  # addresses of one name that are tried
_MAX_LOOKUPS = 16  # names being looked up at once, each in a thread that cannot be stopped
_KEEP_ALIVE_IDLE_S, _KEEP_ALIVE_INTERVAL_S, _KEEP_ALIVE_PROBES = 30, 10, 3
_UNACKNOWLEDGED_MS = 60_000
_NOT_SENT_BYTES = 256 << 10  # queued in the kernel beyond what is in flight
_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class ConnectFailed(Unreachable):
    """No TCP connection came about."""

    code = "connect-failed"


class NameNotFound(Unreachable):
    """A name has no address, or nobody could be asked for it."""

    code = "name-not-found"
    hint = "check the spelling of the name, and that this machine can resolve names"


class AddressInUse(InvalidInput):
    """Another program listens there already.

    Attributes:
        port: the port that is taken.
    """

    code = "address-in-use"

    def __init__(self, address: Multiaddr, port: int) -> None:
        super().__init__(
            f"cannot listen on {address}: port {port} is in use by another program",
            hint=f"stop the program on port {port}, or listen on another port (0 picks a free one)",
        )
        self.port = port


class CannotListen(InvalidInput):
    """The operating system does not let us listen there."""

    code = "cannot-listen"
    hint = "listen on an address of this machine, and on a port of 1024 or above (0: a free one)"


class TcpLink:
    """One TCP connection as a raw link; see `_links.RawLink` for what its methods promise.

    Attributes:
        socket: the socket, for a security protocol that wants the descriptor.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        _tune(sock)
        self._sock = sock
        self._closed = False
        self.socket = trio.socket.from_stdlib_socket(sock)
        self.local_address = _multiaddr(sock.getsockname())
        self.remote_address = _multiaddr(sock.getpeername())

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes and write them to the front of `buffer`; 0 is the end."""
        while True:
            if self._closed:
                raise trio.ClosedResourceError("this end of the link was closed")
            # Waiting comes first even when bytes are there: it is the one checkpoint of the call,
            # and nothing may come between the writing of the buffer and the return.
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._sock.recv_into(buffer)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                raise self._broken(error) from error

    async def send_some(self, data: memoryview) -> int:
        """Send at least one byte of `data`, return how many. Cancelled: none was sent."""
        await trio.lowlevel.checkpoint_if_cancelled()
        sent = self.send_now(data)
        if sent:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while not sent:
            await trio.lowlevel.wait_writable(self._sock)
            sent = self.send_now(data)
        return sent

    def send_now(self, data: memoryview) -> int:
        """Send what of `data` goes without waiting, return how many bytes."""
        if self._closed:
            raise trio.ClosedResourceError("this end of the link was closed")
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise self._broken(error) from error

    def close(self) -> None:
        """Close both directions, at once; idempotent."""
        if not self._closed:
            self._closed = True
            if self._sock.fileno() >= 0:  # a wrapper of the descriptor may have detached it
                trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def _broken(self, error: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self._closed or error.errno == errno.EBADF:
            return trio.ClosedResourceError("this end of the link was closed")
        return trio.BrokenResourceError(f"{self.remote_address}: {_reason(error)}")


class TcpListener:
    """A listening TCP socket; see `_links.Listener`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._closed = False
        self.addresses = [_multiaddr(sock.getsockname())]

    async def accept(self) -> TcpLink:
        """Return the next inbound link. Cancelled, none was taken.

        Raises:
            trio.ClosedResourceError: the listener was closed.
            trio.BusyResourceError: the process is out of descriptors; call again a little later.
        """
        while True:
            if self._closed:
                raise trio.ClosedResourceError("the listener was closed")
            await trio.lowlevel.wait_readable(self._sock)
            try:
                sock, _ = self._sock.accept()
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    raise trio.BusyResourceError(_reason(error)) from error
                continue  # the other end gave up between connecting and this call
            try:
                return TcpLink(sock)
            except OSError:
                sock.close()

    def close(self) -> None:
        """Stop listening, at once; idempotent."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


class TcpTransport:
    """Dials and listens on `/ip4|ip6|dns|dns4|dns6/…/tcp/…`; see `_links.Transport`."""

    def __init__(self, *, backlog: int = 512, head_start_s: float = 0.15) -> None:
        """Make a transport.

        Args:
            backlog: connections the operating system completes ahead of `accept`.
            head_start_s: how long one address of a name is tried before the next joins it.
        """
        self._backlog, self._head_start_s = backlog, head_start_s
        # Apart from the threads of the rest of the program: strangers name the names, and one that
        # nobody answers for holds its thread long after we have given up.
        self._lookups = trio.CapacityLimiter(_MAX_LOOKUPS)

    def can_dial(self, address: Multiaddr) -> bool:
        """Say whether `address` is TCP, alone or with the peer's name behind it."""
        endpoint = _endpoint(address)
        return endpoint is not None and endpoint[2] > 0 and not address.is_unspecified

    def can_listen(self, address: Multiaddr) -> bool:
        """Say whether `address` is `/ip4|ip6/…/tcp/…`."""
        endpoint = _endpoint(address)
        return endpoint is not None and address.ip is not None and address.peer_id is None

    async def dial(self, address: Multiaddr) -> TcpLink:
        """Connect. Cancelled, nothing is left open. Raises ConnectFailed, NameNotFound."""
        return await self._dial(address, public=False)

    async def dial_public(self, address: Multiaddr) -> TcpLink:
        """Connect as `dial`, but where a name leads to on the internet only."""
        return await self._dial(address, public=True)

    async def _dial(self, address: Multiaddr, *, public: bool) -> TcpLink:
        endpoint = _endpoint(address)
        if endpoint is None or not self.can_dial(address):
            raise ConnectFailed(f"{address} is not a TCP address", hint=InvalidInput.hint)
        kind, host, port = endpoint
        if kind in ("ip4", "ip6"):
            return await _connect(_FAMILIES[kind], (host, port))
        found = await self._resolve(_FAMILIES[kind], host, port)
        if public:
            found = [entry for entry in found if ipaddress.ip_address(entry[1][0]).is_global]
            if not found:
                hint = "whoever gave this name is on the internet, where it should lead as well"
                raise ConnectFailed(f"{host} leads to no public address", hint=hint)
        attempts: list[Callable[[], Awaitable[TcpLink]]] = [
            functools.partial(_connect, family, place) for family, place in found
        ]
        try:
            return await race(attempts, self._head_start_s, TcpLink.close)
        except AllFailed as error:
            raise ConnectFailed(f"{host}: {error}") from error

    async def _resolve(
        self, family: int, host: str, port: int
    ) -> list[tuple[int, tuple[str, int]]]:
        look_up = functools.partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        try:
            found = await trio.to_thread.run_sync(
                look_up, abandon_on_cancel=True, limiter=self._lookups
            )
        except (OSError, UnicodeError) as error:
            raise NameNotFound(f"{host}: {_reason(error)}") from error
        places = dict.fromkeys((int(entry[0]), (str(entry[4][0]), port)) for entry in found)
        if not places:
            raise NameNotFound(f"{host} has no address")
        return list(places)[:_MAX_RESOLVED]

    async def listen(self, address: Multiaddr) -> TcpListener:
        """Bind and listen. Raises AddressInUse, CannotListen."""
        await trio.lowlevel.checkpoint()
        endpoint = _endpoint(address)
        if endpoint is None or not self.can_listen(address):
            raise CannotListen(f"cannot listen on {address}", hint="listen on /ip4/…/tcp/…")
        kind, host, port = endpoint
        sock = socket.socket(_FAMILIES[kind], socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            # A restarted node gets its port back while old connections still linger.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if kind == "ip6":
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))
            sock.listen(self._backlog)
            return TcpListener(sock)
        except OSError as error:
            sock.close()
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(address, port) from error
            raise CannotListen(f"cannot listen on {address}: {_reason(error)}") from error


def _endpoint(address: Multiaddr) -> tuple[str, str, int] | None:
    parts = address.parts
    if len(parts) not in (2, 3) or parts[0][0] not in _FAMILIES or parts[1][0] != "tcp":
        return None
    if len(parts) == 3 and parts[2][0] != "p2p":
        return None
    return parts[0][0], parts[0][1], int(parts[1][1])


async def _connect(family: int, place: tuple[str, int]) -> TcpLink:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await trio.socket.from_stdlib_socket(sock).connect(place)
        return TcpLink(sock)
    except OSError as error:
        sock.close()
        raise ConnectFailed(_reason(error)) from error
    except BaseException:
        sock.close()
        raise


def _tune(sock: socket.socket) -> None:
    options = [
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", _KEEP_ALIVE_IDLE_S),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", _KEEP_ALIVE_INTERVAL_S),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", _KEEP_ALIVE_PROBES),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", _UNACKNOWLEDGED_MS),
        (socket.IPPROTO_TCP, "TCP_NOTSENT_LOWAT", _NOT_SENT_BYTES),
    ]
    for level, name, value in options:
        option = getattr(socket, name, None)  # not every system has every one
        if option is not None:
            sock.setsockopt(level, option, value)


def _multiaddr(name: tuple[str | int, ...]) -> Multiaddr:
    host, port = str(name[0]).partition("%")[0], name[1]
    kind = f"ip{ipaddress.ip_address(host).version}"
    return Multiaddr(((kind, host), ("tcp", str(port))))


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return (text or str(error) or type(error).__name__).lower()
