"""Finding peers on the local network, without anybody's help: libp2p's mDNS.

Each node registers a service `<random name>._p2p._udp.local` whose TXT record holds one string
`dnsaddr=<multiaddr ending in /p2p/…>` for each of its addresses, and watches for those of others.
Whoever is seen is connected to; the rest follows from that, identify and the DHT above all. What
comes in is from anybody on the network: it is bounded, and a peer is only who proves to be it.

Source: https://github.com/libp2p/specs/blob/master/discovery/mdns.md. The mDNS itself is that of
zeroconf, in threads of its own. A network that does not carry multicast is nothing to fail for.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica.errors import CodecError, InvalidInput, LatticaError
from lattica.transport import Multiaddr, machine_addresses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from zeroconf import Zeroconf

    from lattica.identity import PeerId
    from lattica.transport import Mesh

SERVICE = "_p2p._udp.local."
MAX_ADDRESSES = 8  # in one record, so that it fits one packet
MAX_TXT = 4096  # bytes of a record that is read
_MAX_STRING = 255  # bytes: the length before a TXT string is one byte
_KEY = "dnsaddr="
_BACKLOG = 1024  # names seen and not looked at yet: a hall full of nodes answers at once
_MAX_NAMES = 1024  # names remembered as looked at
_RESOLVE_MS = 3000
_RESOLVERS = 4  # names looked at together: one that nobody stands behind takes all its time
_MEETINGS = 32  # records whose peers are being connected to; who floods the network waits for them

logger = logging.getLogger(__name__)


class MdnsRecordError(CodecError):
    """A TXT record on the local network is malformed."""

    code = "mdns-record"


def encode_txt(addresses: Iterable[Multiaddr], peer: PeerId) -> bytes:
    """Return the TXT record of a peer at `addresses`, as many as fit."""
    strings = [f"{_KEY}{address.with_peer(peer)}".encode() for address in addresses]
    fitting = [string for string in strings if len(string) <= _MAX_STRING][:MAX_ADDRESSES]
    return b"".join(bytes([len(string)]) + string for string in fitting)


def decode_txt(record: bytes) -> dict[PeerId, list[Multiaddr]]:
    """Return the addresses in a TXT record, by peer; strings that are none of ours are skipped.

    Raises:
        MdnsRecordError: too large, or cut short.
    """
    if len(record) > MAX_TXT:
        raise MdnsRecordError(f"a TXT record of {len(record)} bytes, limit {MAX_TXT}")
    found: dict[PeerId, list[Multiaddr]] = {}
    offset = count = 0
    while offset < len(record):
        end = offset + 1 + record[offset]
        if end > len(record):
            raise MdnsRecordError("a TXT string is cut short")
        string, offset = record[offset + 1 : end], end
        address = _address_in(string)
        if address is None or address.peer_id is None or count >= MAX_ADDRESSES:
            continue
        count += 1
        found.setdefault(address.peer_id, []).append(address.without_peer())
    return found


def _address_in(string: bytes) -> Multiaddr | None:
    try:
        text = string.decode()
        return Multiaddr.parse(text.removeprefix(_KEY)) if text.startswith(_KEY) else None
    except (UnicodeDecodeError, InvalidInput):
        return None


@asynccontextmanager
async def open_mdns(mesh: Mesh, *, interfaces: Sequence[str] | None = None) -> AsyncIterator[None]:
    """Be found on the local network, and connect to who is found there, until the block ends.

    Args:
        mesh: whose addresses are told, and what connects.
        interfaces: IP addresses of the interfaces to use; all when None.
    """
    async with private_nursery() as nursery:
        nursery.start_soon(_run, mesh, interfaces)
        yield
        nursery.cancel_scope.cancel()


async def _run(mesh: Mesh, interfaces: Sequence[str] | None) -> None:
    import zeroconf  # only a node that looks around needs it

    try:
        service = await trio.to_thread.run_sync(_start, interfaces)
    except OSError as error:
        logger.info("no discovery on the local network: %s", error)
        return
    try:
        await _serve(service, mesh, on_loopback=interfaces is not None)
    except (OSError, zeroconf.Error) as error:
        logger.info("discovery on the local network ended: %r", error)
    finally:
        with trio.CancelScope(shield=True):  # takes back what was said; bounded by zeroconf
            await trio.to_thread.run_sync(service.close)


async def _serve(service: Zeroconf, mesh: Mesh, *, on_loopback: bool) -> None:
    found, names = trio.open_memory_channel[str](_BACKLOG)
    token = trio.lowlevel.current_trio_token()
    # An address of this machine only means nothing to others.
    addresses = [address for address in mesh.addresses if on_loopback or not address.is_loopback]
    name = f"{secrets.token_hex(16)}.{SERVICE}"

    def seen(name_seen: str) -> None:  # in zeroconf's thread
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(_offer, found, name_seen)

    record = encode_txt(addresses, mesh.peer_id)
    hosts = [str(address.ip) for address in addresses if address.ip is not None]
    if not record:
        logger.info("nobody on the local network can be told of us: we listen on loopback only")
    await trio.to_thread.run_sync(_register, service, name, record, hosts, seen)
    looked_at: dict[str, None] = {name: None}
    meetings = trio.Semaphore(_MEETINGS)

    async def meet(record: bytes) -> None:
        try:
            await _meet(mesh, record, on_loopback=on_loopback)
        finally:
            meetings.release()

    async with private_nursery() as nursery:

        async def meet_soon(record: bytes) -> None:
            await meetings.acquire()
            nursery.start_soon(meet, record)

        for _ in range(_RESOLVERS):
            nursery.start_soon(_look, service, names, looked_at, meet_soon)


async def _look(
    service: Zeroconf,
    names: trio.MemoryReceiveChannel[str],
    looked_at: dict[str, None],
    meet_soon: Callable[[bytes], Awaitable[None]],
) -> None:
    async for name in names:
        if name in looked_at:
            continue
        if len(looked_at) >= _MAX_NAMES:
            del looked_at[next(iter(looked_at))]
        looked_at[name] = None
        # Abandoned when we close: the thread ends by itself, within the time it has to resolve.
        record = await trio.to_thread.run_sync(_resolve, service, name, abandon_on_cancel=True)
        if not record:  # a packet may have been lost: look again when the name is heard again
            looked_at.pop(name, None)
        await meet_soon(record)


def _offer(channel: trio.MemorySendChannel[str], name: str) -> None:
    with suppress(trio.WouldBlock, trio.BrokenResourceError):
        channel.send_nowait(name)


async def _meet(mesh: Mesh, record: bytes, *, on_loopback: bool) -> None:
    try:
        for peer, addresses in decode_txt(record).items():
            # Nobody else on the network can be at an address of this machine.
            there = [address for address in addresses if on_loopback or not address.is_loopback]
            if there and peer != mesh.peer_id and mesh.connected(peer) is None:
                logger.info("%s is on the local network", peer.short)
                await mesh.connect(peer, there)
    except LatticaError as error:
        logger.info("a peer on the local network: %s", error)


# In threads: zeroconf blocks.


def _start(interfaces: Sequence[str] | None) -> Zeroconf:
    import zeroconf

    used = interfaces if interfaces is not None else list(map(str, machine_addresses()))
    logger.info("looking for peers on the local network, at %s", ", ".join(used))
    if interfaces is None:
        return zeroconf.Zeroconf()
    return zeroconf.Zeroconf(interfaces=list(interfaces))


def _register(
    service: Zeroconf, name: str, record: bytes, hosts: list[str], seen: Callable[[str], None]
) -> None:
    import zeroconf

    class Listener(zeroconf.ServiceListener):
        def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            seen(name)

        def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            seen(name)

        def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            """A connection notices by itself."""

    info = zeroconf.ServiceInfo(
        SERVICE,
        name,
        port=4001,  # a service needs one; the addresses stand in the TXT record
        properties=record,
        server=f"{name.partition('.')[0]}.local.",
        parsed_addresses=hosts,
    )
    # The name is random: there is nobody to ask whether it is taken, and that would take a second.
    if record:
        service.register_service(info, cooperating_responders=True)
    service.add_service_listener(SERVICE, Listener())


def _resolve(service: Zeroconf, name: str) -> bytes:
    import zeroconf

    # A TXT record mostly comes with the name, and is all that some libp2p nodes send. Asking for
    # it waits for address records, too, so what is known is looked at first.
    try:
        info = zeroconf.ServiceInfo(SERVICE, name)
        if not info.load_from_cache(service) and not info.text:
            info.request(service, _RESOLVE_MS)
    except zeroconf.Error as error:
        logger.debug("no record of %r: %r", name, error)
        return b""
    except Exception:
        # Anybody on the network writes what zeroconf reads here: that may not end the node.
        logger.exception("looking at %r on the local network failed", name)
        return b""
    return info.text or b""
