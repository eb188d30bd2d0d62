"""The routing table: which peers this node knows, by distance. Pure.

A bucket per number of leading bits shared with our own position, each of at most `K` contacts, kept
in the order in which they were last heard from (spec/dht.md §3; the Kademlia paper §2.2, §4.1).
So we know many peers of our own neighbourhood and a few of every region further away, and the whole
is bounded by construction: 256 buckets, made when first needed, of `K` contacts and `K` spares.

Who gets in: the service adds a peer when it has answered a request of ours, never on hearsay. Old
contacts are worth more than new ones (who has been up for long tends to stay, and a crowd of fresh
identities cannot push out what works), so a newcomer to a full bucket becomes a *spare*; it takes
a place when a contact there fails. One failure where a spare waits is enough; otherwise a contact
is asked again, at growing intervals, and leaves after `MAX_FAILURES`.

Nothing here waits or asks: the service asks `due_checks` and `due_refreshes` what the time demands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ._keys import KEY_BITS, MAX_AIMED_BITS, K, position, shared_bits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lattica.identity import PeerId

MAX_FAILURES = 3  # in a row; then a contact leaves even where nobody waits for its place
CHECK_SECONDS = 1800.0  # a contact that was silent for so long is asked whether it is there
RECHECK_SECONDS = 30.0  # after a first failure; four times as long after each further one
FRESH_SECONDS = 60.0  # a contact heard from so lately is not checked for a newcomer's sake
REFRESH_SECONDS = 3600.0  # a bucket in whose region nothing was looked up for so long


@dataclass(slots=True)
class Contact:
    """A peer in the table.

    Attributes:
        peer: who.
        position: its place in the key space.
        added_at: when it first answered us, in seconds.
        seen_at: when it last answered us.
        check_at: when to ask whether it is still there, unless it is heard from before.
        failures: requests that failed since it last answered; above 0 others are not sent to it.
    """

    peer: PeerId
    position: int
    added_at: float
    seen_at: float
    check_at: float
    failures: int = 0


@dataclass(slots=True)
class _Bucket:
    # Both in the order last heard from, the longest silent first.
    contacts: dict[PeerId, Contact] = field(default_factory=dict)
    spares: dict[PeerId, float] = field(default_factory=dict)  # and when each last answered
    refreshed_at: float = -float("inf")


class RoutingTable:
    """Contacts of one node in one DHT."""

    def __init__(self, local: PeerId, *, bucket_size: int = K) -> None:
        self.local = local
        self.position = position(local.raw)
        self._bucket_size = bucket_size
        self._buckets: dict[int, _Bucket] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, peer: PeerId) -> bool:
        return self.get(peer) is not None

    def __iter__(self) -> Iterator[Contact]:
        """Yield every contact, the furthest bucket first."""
        for index in sorted(self._buckets):
            yield from self._buckets[index].contacts.values()

    def get(self, peer: PeerId) -> Contact | None:
        """Return the contact of `peer`, or None."""
        bucket = self._buckets.get(self.bucket_of(peer))
        return bucket.contacts.get(peer) if bucket is not None else None

    def bucket_of(self, peer: PeerId) -> int:
        """Return the index of the bucket that `peer` belongs to: the leading bits it shares."""
        return shared_bits(self.position, position(peer.raw))

    def bucket_sizes(self) -> dict[int, int]:
        """Return the number of contacts of each bucket that has any."""
        sizes = {index: len(bucket.contacts) for index, bucket in sorted(self._buckets.items())}
        return {index: size for index, size in sizes.items() if size}

    def wants(self, peer: PeerId) -> bool:
        """Say whether hearing from `peer` would change the table, so that asking it is worth it."""
        if peer == self.local:
            return False
        bucket = self._buckets.get(self.bucket_of(peer))
        if bucket is None or len(bucket.contacts) < self._bucket_size:
            return bucket is None or peer not in bucket.contacts
        known = peer in bucket.contacts or peer in bucket.spares
        return not known and len(bucket.spares) < self._bucket_size

    def add(self, peer: PeerId, *, now: float) -> PeerId | None:
        """Note that `peer` has just answered a request of ours.

        Returns:
            The contact to check, when the bucket is full and `peer` waits as a spare: the one
            silent for longest. None when there is nothing to do.
        """
        if peer == self.local:
            return None
        where = position(peer.raw)
        bucket = self._buckets.setdefault(shared_bits(self.position, where), _Bucket())
        contact = bucket.contacts.pop(peer, None)
        if contact is not None:
            contact.seen_at, contact.check_at, contact.failures = now, now + CHECK_SECONDS, 0
            bucket.contacts[peer] = contact
            return None
        if len(bucket.contacts) < self._bucket_size:
            bucket.spares.pop(peer, None)
            self._insert(bucket, peer, where, seen_at=now, check_at=now + CHECK_SECONDS)
            return None
        return self._wait(bucket, peer, where, now)

    def failed(self, peer: PeerId, *, now: float) -> None:
        """Note that a request to `peer` failed. Peers that are not in the table are ignored."""
        bucket = self._buckets.get(self.bucket_of(peer))
        if bucket is None:
            return
        bucket.spares.pop(peer, None)
        contact = bucket.contacts.get(peer)
        if contact is None or (contact.failures and now < contact.check_at):
            return  # several lookups that meet it within a moment are one failure
        contact.failures += 1
        contact.check_at = now + RECHECK_SECONDS * 4 ** (contact.failures - 1)
        if bucket.spares or contact.failures >= MAX_FAILURES:
            self._replace(bucket, peer, now)

    def put_off(self, peer: PeerId, *, now: float) -> None:
        """Note that `peer` could not be asked, through no fault of its own; ask it later."""
        contact = self.get(peer)
        if contact is not None:
            contact.check_at = max(contact.check_at, now + RECHECK_SECONDS)

    def doubt(self, *, now: float) -> None:
        """Have the contacts heard from last asked at once: we lost touch with everybody."""
        latest = sorted(self, key=lambda contact: contact.seen_at, reverse=True)
        for contact in latest[: self._bucket_size]:
            contact.check_at = min(contact.check_at, now)

    def remove(self, peer: PeerId, *, now: float) -> None:
        """Forget `peer`: it said that it does not speak the protocol (any more)."""
        bucket = self._buckets.get(self.bucket_of(peer))
        if bucket is None:
            return
        bucket.spares.pop(peer, None)
        if peer in bucket.contacts:
            self._replace(bucket, peer, now)

    def closest(self, target: int, count: int = K, *, failing: bool = False) -> list[PeerId]:
        """Return the contacts nearest to the position `target`, nearest first.

        Args:
            target: a position (see `_keys.position`).
            count: how many at most.
            failing: fill up with contacts whose last request failed. Our own lookups do, since a
                small network may have no others; answers to strangers do not.
        """
        found: list[Contact] = []
        for contacts in self._by_region(target):
            usable = [contact for contact in contacts if not contact.failures]
            found += sorted(usable, key=lambda contact: contact.position ^ target)
            if len(found) >= count:
                break
        nearest = [contact.peer for contact in found[:count]]
        if failing and len(nearest) < count:
            doubtful = [contact for contact in self if contact.failures]
            doubtful.sort(key=lambda contact: contact.position ^ target)
            nearest += [contact.peer for contact in doubtful[: count - len(nearest)]]
        return nearest

    def due_checks(self, now: float) -> list[PeerId]:
        """Return the contacts to ask whether they are still there, the longest overdue first."""
        due = sorted(
            (contact.check_at, contact.peer) for contact in self if contact.check_at <= now
        )
        return [peer for _, peer in due]

    def next_check(self) -> float:
        """Return when `due_checks` will have something to say; infinity for an empty table."""
        return min((contact.check_at for contact in self), default=float("inf"))

    def due_refreshes(self, now: float) -> list[int]:
        """Return the buckets in whose region nothing was looked up for `REFRESH_SECONDS`.

        That is each down to the deepest with a contact: below it, the self lookup has looked.
        """
        deepest = max(self.bucket_sizes(), default=-1)
        indices = range(min(deepest, MAX_AIMED_BITS) + 1)
        before = now - REFRESH_SECONDS
        return [
            index
            for index in indices
            if index not in self._buckets or self._buckets[index].refreshed_at <= before
        ]

    def looked_up(self, target: int, *, now: float) -> None:
        """Note that a lookup for the position `target` was made: its region is fresh."""
        index = shared_bits(self.position, target)
        if index < KEY_BITS:
            self._buckets.setdefault(index, _Bucket()).refreshed_at = now

    def looked_up_everywhere(self, *, now: float) -> None:
        """Note that a lookup has asked every peer there is."""
        for index in range(MAX_AIMED_BITS + 1):
            self._buckets.setdefault(index, _Bucket()).refreshed_at = now

    def _by_region(self, target: int) -> Iterator[list[Contact]]:
        # Nearest first. A bucket that shares as many bits with us as the target does shares one
        # more with the target; all deeper ones are in our half, at one and the same magnitude of
        # distance; each shallower one is further than all before it.
        bits = shared_bits(self.position, target)
        if bits in self._buckets:
            yield list(self._buckets[bits].contacts.values())
        deeper = (bucket for index, bucket in self._buckets.items() if index > bits)
        yield [contact for bucket in deeper for contact in bucket.contacts.values()]
        for index in sorted((index for index in self._buckets if index < bits), reverse=True):
            yield list(self._buckets[index].contacts.values())

    def _insert(
        self, bucket: _Bucket, peer: PeerId, where: int, *, seen_at: float, check_at: float
    ) -> None:
        bucket.contacts[peer] = Contact(peer, where, seen_at, seen_at, check_at)
        self._size += 1

    def _wait(self, bucket: _Bucket, peer: PeerId, where: int, now: float) -> PeerId | None:
        bucket.spares.pop(peer, None)
        failing = next((each.peer for each in bucket.contacts.values() if each.failures), None)
        if failing is not None:
            del bucket.contacts[failing]
            self._size -= 1
            self._insert(bucket, peer, where, seen_at=now, check_at=now + CHECK_SECONDS)
            return None
        bucket.spares[peer] = now
        if len(bucket.spares) > self._bucket_size:
            del bucket.spares[next(iter(bucket.spares))]
        oldest = next(iter(bucket.contacts.values()))
        return oldest.peer if oldest.seen_at <= now - FRESH_SECONDS else None

    def _replace(self, bucket: _Bucket, peer: PeerId, now: float) -> None:
        del bucket.contacts[peer]
        self._size -= 1
        if bucket.spares:
            # The spare that answered last is the likeliest to be there, and is asked soon.
            spare, seen_at = bucket.spares.popitem()
            self._insert(bucket, spare, position(spare.raw), seen_at=seen_at, check_at=now)
