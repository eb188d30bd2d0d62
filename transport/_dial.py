"""Which addresses of a peer to dial, in which order, and what to say when none answers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattica.errors import InvalidInput, LatticaError, Unreachable

from ._book import bare_address
from .multiaddr import InvalidAddress

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from lattica.identity import PeerId

    from ._links import Transport
    from .multiaddr import Multiaddr


class NotDialable(Unreachable):
    """No transport of this node reaches that kind of address."""

    code = "not-dialable"
    retryable = False
    hint = "this node dials TCP: give an address with /tcp/ and without /ws or /p2p-circuit"


class SelfDial(InvalidInput):
    """The address, or the peer, is this node itself."""

    code = "self-dial"
    hint = "give the address or ID of another node"


class MeshClosed(LatticaError):
    """The mesh is closed, or closing."""

    code = "mesh-closed"
    hint = "use the mesh inside its `async with` block"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One address that was tried, and why it did not lead to the peer."""

    address: Multiaddr
    error: LatticaError


class DialError(Unreachable):
    """A peer could be reached at none of its addresses.

    Attributes:
        attempts: each address that was tried, in order of preference, and why it failed.
    """

    code = "dial"

    def __init__(self, target: str, attempts: Sequence[Attempt], *, peer: PeerId | None) -> None:
        if attempts:
            reasons = "; ".join(f"{attempt.address}: {attempt.error}" for attempt in attempts)
            message = f"cannot reach {target}: {reasons}"
        else:
            message = f"cannot reach {target}: no address of it is known"
        hint = attempts[0].error.hint if len(attempts) == 1 else None
        if not attempts:
            hint = "give an address, or a bootstrap node that knows the peer"
        super().__init__(message, peer=peer, hint=hint)
        self.attempts = tuple(attempts)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a dial is going to do.

    Attributes:
        steps: addresses and the transport for each, best first.
        skipped: addresses that are not tried, and why.
    """

    steps: tuple[tuple[Multiaddr, Transport], ...]
    skipped: tuple[Attempt, ...]


def plan_dial(
    peer: PeerId | None,
    addresses: Iterable[Multiaddr],
    transports: Sequence[Transport],
    *,
    ours: Collection[Multiaddr],
    worked: Multiaddr | None,
    count: int,
) -> Plan:
    """Order `addresses` of a peer: this machine first, then the local network, then the rest.

    The order is that of how soon a wrong address fails. A loopback address of a peer elsewhere is
    refused by our own kernel at once; a dead public one is silent until the deadline. Within a
    class the given order stays.

    Args:
        peer: who is meant; None takes whoever answers.
        addresses: with or without `/p2p/…`; repeated ones count once.
        transports: who dials what; the first that can.
        ours: addresses we listen on ourselves: whoever answers there is not the peer.
        worked: where the peer was reached last; it goes before all others.
        count: addresses tried at most; the best ones.
    """
    steps: list[tuple[int, Multiaddr, Transport]] = []
    skipped: list[Attempt] = []
    found: dict[Multiaddr, None] = {}
    for given in addresses:
        bare = bare_address(given, peer)
        if bare is None:
            error = InvalidAddress(f"it is no address of {peer}", hint="leave it out")
            skipped.append(Attempt(given, error))
        else:
            found[bare] = None
    for address in found:
        transport = next((entry for entry in transports if entry.can_dial(address)), None)
        if address in ours:
            skipped.append(Attempt(address, SelfDial("this node listens there itself")))
        elif transport is None:
            skipped.append(Attempt(address, NotDialable("no transport of this node dials it")))
        else:
            distance = -1 if address == worked else _distance(address)
            steps.append((distance, address, transport))
    steps.sort(key=lambda step: step[0])
    return Plan(tuple((address, way) for _, address, way in steps[:count]), tuple(skipped))


def _distance(address: Multiaddr) -> int:
    if address.is_loopback or address.parts[0][0] in ("memory", "unix"):
        return 0
    if address.is_private:
        return 1
    return 2 if address.ip is not None else 3  # a name costs a look-up first
