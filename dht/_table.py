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

A thousand identities may be one machine, so contacts of one *group* (a network, see
`transport.ip_group`) count as one party: two of them in a bucket, eight in the table, and of the
wider network around it half a bucket. What counts is the address from which the peer's connection
really came when it answered. Spares of a group are no more than its contacts may be, so one network
can neither fill a bucket nor the queue before it. Peers without a group are not counted.

Nothing here waits or asks: the service asks `due_checks` and `due_refreshes` what the time demands.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lattica.transport import wider_group

from ._keys import KEY_BITS, MAX_AIMED_BITS, K, place_of, shared_bits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lattica.identity import PeerId

MAX_FAILURES = 3  # in a row; then a contact leaves even where nobody waits for its place
CHECK_SECONDS = 1800.0  # a contact that was silent for so long is asked whether it is there
RECHECK_SECONDS = 30.0  # after a first failure; four times as long after each further one
FRESH_SECONDS = 60.0  # a contact heard from so lately is not checked for a newcomer's sake
GROUP_IN_BUCKET = 2  # contacts of one group, of K
GROUP_IN_TABLE = 8
GROUP_IN_SEEDS = 2
WIDER_GROUP_IN_BUCKET = K // 2
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
        group: the network it last answered from; None where that is not counted.
    """

    peer: PeerId
    position: int
    added_at: float
    seen_at: float
    check_at: float
    failures: int = 0
    group: bytes | None = None


@dataclass(slots=True)
class _Spare:
    seen_at: float
    group: bytes | None


@dataclass(slots=True)
class _Bucket:
    # Both in the order last heard from, the longest silent first.
    contacts: dict[PeerId, Contact] = field(default_factory=dict)
    spares: dict[PeerId, _Spare] = field(default_factory=dict)
    refreshed_at: float = -float("inf")


class RoutingTable:
    """Contacts of one node in one DHT."""

    def __init__(
        self,
        local: PeerId,
        *,
        bucket_size: int = K,
        group_in_bucket: int = GROUP_IN_BUCKET,
        group_in_table: int = GROUP_IN_TABLE,
    ) -> None:
        """Make the empty table of the node `local`; the sizes are counted in contacts."""
        self.local = local
        self.position = place_of(local.raw)
        self._bucket_size = bucket_size
        self._group_in_bucket, self._group_in_table = group_in_bucket, group_in_table
        self._buckets: dict[int, _Bucket] = {}
        self._size = 0
        self._groups = Counter[bytes]()  # contacts of each
        self._crowded = False  # whether anybody was turned away for its network

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
        return shared_bits(self.position, place_of(peer.raw))

    def bucket_sizes(self) -> dict[int, int]:
        """Return the number of contacts of each bucket that has any."""
        sizes = {index: len(bucket.contacts) for index, bucket in sorted(self._buckets.items())}
        return {index: size for index, size in sizes.items() if size}

    def group_sizes(self) -> dict[bytes, int]:
        """Return the number of contacts of each group that has any."""
        return dict(self._groups)

    def wants(self, peer: PeerId, group: bytes | None = None) -> bool:
        """Say whether hearing from `peer` would change the table, so that asking it is worth it.

        `group` is that of the address at which it is connected.
        """
        if peer == self.local:
            return False
        bucket = self._buckets.get(self.bucket_of(peer))
        if bucket is None:
            return self._has_room_for(None, group)
        if peer in bucket.contacts or peer in bucket.spares:
            return False
        if len(bucket.contacts) < self._bucket_size:
            return self._has_room_for(bucket, group)
        return len(bucket.spares) < self._bucket_size and self._may_wait(bucket, group)

    def add(self, peer: PeerId, *, now: float, group: bytes | None = None) -> PeerId | None:
        """Note that `peer` has just answered a request of ours.

        Args:
            peer: who.
            now: when.
            group: the group of the address that its connection really came from; None is not
                counted. One that has moved to a group without room leaves.

        Returns:
            The contact to check, when the bucket is full and `peer` waits as a spare: the one
            silent for longest. None when there is nothing to do.
        """
        if peer == self.local:
            return None
        where = place_of(peer.raw)
        bucket = self._buckets.setdefault(shared_bits(self.position, where), _Bucket())
        contact = bucket.contacts.get(peer)
        if contact is not None:
            self._hear_again(bucket, contact, group, now)
            return None
        bucket.spares.pop(peer, None)
        if len(bucket.contacts) >= self._bucket_size:
            return self._wait(bucket, peer, group, now)
        if self._has_room_for(bucket, group):
            self._insert(bucket, Contact(peer, where, now, now, now + CHECK_SECONDS, 0, group))
        else:
            self._supplant(bucket, peer, group, now)
        return None

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
        if contact.failures >= MAX_FAILURES or self._next_spare(bucket, contact) is not None:
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

    def closest(self, target: int, count: int = K) -> list[PeerId]:
        """Return the contacts nearest to the position `target`, nearest first: for answers.

        At most `count`; without those whose last request failed.
        """
        found: list[Contact] = []
        for contacts in self._by_region(target):
            usable = [contact for contact in contacts if not contact.failures]
            found += sorted(usable, key=lambda contact: contact.position ^ target)
            if len(found) >= count:
                break
        return [contact.peer for contact in found[:count]]

    def seeds(self, target: int, count: int = K) -> list[PeerId]:
        """Return the contacts that a lookup of ours for `target` begins with, at most `count`.

        The nearest, but of one network a few: a gang in some networks that has settled next to a
        key may be all that is near, and would name nobody but itself. Where there are not enough
        others, the rest of a network follows, then those whose last request failed.
        """
        found: list[Contact] = []
        crowd: list[Contact] = []
        taken = Counter[bytes]()
        for contacts in self._by_region(target):
            for contact in sorted(contacts, key=lambda contact: contact.position ^ target):
                if contact.failures:
                    continue
                if contact.group is not None:
                    taken[contact.group] += 1
                    if taken[contact.group] > GROUP_IN_SEEDS:
                        crowd.append(contact)
                        continue
                found.append(contact)
            if len(found) >= count:
                break
        else:
            doubtful = [contact for contact in self if contact.failures]
            found += crowd + sorted(doubtful, key=lambda contact: contact.position ^ target)
        return [contact.peer for contact in found[:count]]

    def holds_everybody(self, now: float) -> bool:
        """Say whether every peer there is has its place here, as far as lookups have shown.

        In a network of some forty nodes no bucket fills up. Then the contacts nearest to a key are
        what a lookup would find.
        """
        if self._crowded or not self._size:
            return False
        for bucket in self._buckets.values():
            if len(bucket.contacts) >= self._bucket_size:
                return False
            for contact in bucket.contacts.values():
                if contact.failures:
                    return False
        return not self.due_refreshes(now)

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
        deepest = max((at for at, each in self._buckets.items() if each.contacts), default=-1)
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

    def _hear_again(
        self, bucket: _Bucket, contact: Contact, group: bytes | None, now: float
    ) -> None:
        del bucket.contacts[contact.peer]
        bucket.contacts[contact.peer] = contact  # the one heard from last is last
        contact.seen_at, contact.check_at, contact.failures = now, now + CHECK_SECONDS, 0
        if group == contact.group:
            return
        self._take_out(bucket, contact)
        if self._has_room_for(bucket, group):
            contact.group = group
            self._insert(bucket, contact)
        else:
            self._promote_spare(bucket, now)

    def _wait(
        self, bucket: _Bucket, peer: PeerId, group: bytes | None, now: float
    ) -> PeerId | None:
        if self._supplant(bucket, peer, group, now) or not self._may_wait(bucket, group):
            return None
        bucket.spares[peer] = _Spare(now, group)
        if len(bucket.spares) > self._bucket_size:
            del bucket.spares[next(iter(bucket.spares))]
        oldest = next(iter(bucket.contacts.values()))
        return oldest.peer if oldest.seen_at <= now - FRESH_SECONDS else None

    def _supplant(self, bucket: _Bucket, peer: PeerId, group: bytes | None, now: float) -> bool:
        """Give `peer` the place of a contact that is failing; says whether there was one."""
        for failing in bucket.contacts.values():
            if failing.failures and self._has_room_for(bucket, group, leaving=failing):
                self._take_out(bucket, failing)
                where = place_of(peer.raw)
                self._insert(bucket, Contact(peer, where, now, now, now + CHECK_SECONDS, 0, group))
                return True
        return False

    def _replace(self, bucket: _Bucket, peer: PeerId, now: float) -> None:
        self._take_out(bucket, bucket.contacts[peer])
        self._promote_spare(bucket, now)

    def _promote_spare(self, bucket: _Bucket, now: float) -> None:
        # The spare that answered last is the likeliest to be there, and is asked soon.
        peer = self._next_spare(bucket)
        if peer is not None:
            spare = bucket.spares.pop(peer)
            seen_at, where = spare.seen_at, place_of(peer.raw)
            self._insert(bucket, Contact(peer, where, seen_at, seen_at, now, 0, spare.group))

    def _next_spare(self, bucket: _Bucket, leaving: Contact | None = None) -> PeerId | None:
        for peer, spare in reversed(bucket.spares.items()):
            if self._has_room_for(bucket, spare.group, leaving=leaving):
                return peer
        return None

    def _insert(self, bucket: _Bucket, contact: Contact) -> None:
        bucket.contacts[contact.peer] = contact
        self._size += 1
        if contact.group is not None:
            self._groups[contact.group] += 1

    def _take_out(self, bucket: _Bucket, contact: Contact) -> None:
        del bucket.contacts[contact.peer]
        self._size -= 1
        if contact.group is not None:
            self._groups[contact.group] -= 1
            if not self._groups[contact.group]:
                del self._groups[contact.group]

    def _has_room_for(
        self, bucket: _Bucket | None, group: bytes | None, *, leaving: Contact | None = None
    ) -> bool:
        """Say whether one more contact of `group` is not one too many, once `leaving` has left."""
        if group is None:
            return True
        in_table = self._groups[group] - (leaving is not None and leaving.group == group)
        has_room = in_table < self._group_in_table
        # What cannot be too many is not counted: most are the first of their group.
        least = WIDER_GROUP_IN_BUCKET if in_table < self._group_in_bucket else 0
        if has_room and bucket is not None and len(bucket.contacts) >= least:
            groups = [
                contact.group
                for contact in bucket.contacts.values()
                if contact.group is not None and contact is not leaving
            ]
            wider = wider_group(group)
            has_room = (
                groups.count(group) < self._group_in_bucket
                and [wider_group(each) for each in groups].count(wider) < WIDER_GROUP_IN_BUCKET
            )
        self._crowded = self._crowded or not has_room
        return has_room

    def _may_wait(self, bucket: _Bucket, group: bytes | None) -> bool:
        if group is None:
            return True
        waiting = sum(spare.group == group for spare in bucket.spares.values())
        return waiting < self._group_in_bucket
