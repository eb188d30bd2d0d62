"""Who gives way where more is put under one key than may stand there. Pure. spec/dht.md §7.6.

Authors cost nothing, and networks not much. So a full key is shared out: among the wider networks
from which its values were brought, among the networks in each of them, and among the authors in
those. Whoever takes most gives way, until what is left fits: most values where they are too many,
most bytes where they are too large; up to `FREE_BYTES` all take alike.

Where all take alike, as in a flood from many networks, one value from each, arrival must not
decide: whoever came first would keep everybody else out, or whoever came last would empty the key.
So chance does, and each keeper draws for itself: the rank of a network is a hash of it under a
secret of the keeper. Of n networks that crowd into a key, each keeps its place at one keeper with
probability places / n, whenever it comes; and there are twenty keepers, of which one is enough.

Between authors of one network the newcomer gives way instead: their names are free, and would be
made up until one is lucky.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from lattica.transport import wider_group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FREE_BYTES = 1024  # of one network under one key: what takes less takes no less


class Claim(NamedTuple):
    """A value that stands under a key, or would like to.

    Attributes:
        place: where.
        author: whose it is.
        source: the network, or the peer, that brought it.
        size: in bytes.
    """

    place: bytes
    author: bytes
    source: bytes
    size: int


class Crowding:
    """The judgement of one keeper.

    Args:
        secret: what its chances come from; by default nobody else knows it.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secrets.token_bytes(16) if secret is None else secret
        self._rank = functools.lru_cache(maxsize=8192)(self._draw)

    def leaving(
        self, held: Iterable[Claim], newcomer: Claim, *, count: int, size: int
    ) -> list[bytes] | None:
        """Return whose places `newcomer` takes; None: it is itself that gives way.

        Args:
            held: what stands under the key, the oldest first, without what is to be replaced.
            newcomer: what is to stand there as well.
            count: values that may.
            size: bytes that they may have together.
        """
        claims = [*held, newcomer]
        left = sum(claim.size for claim in claims)
        places: list[bytes] = []
        while len(claims) > count or left > size:
            leaving = self._last(claims, newcomer, by_size=len(claims) <= count)
            if leaving is newcomer:
                return None
            claims.remove(leaving)
            left -= leaving.size
            places.append(leaving.place)
        return places

    def _last(self, claims: list[Claim], newcomer: Claim, *, by_size: bool) -> Claim:
        """Return who gives way next: in the network, and of the author, that take most."""

        def network(taken: tuple[bytes, int]) -> tuple[int, bytes]:
            name, amount = taken
            return max(amount, FREE_BYTES) if by_size else amount, self._rank(name)

        def author(taken: tuple[bytes, int]) -> tuple[int, bool]:
            name, amount = taken
            return amount, name == newcomer.author

        ways: tuple[tuple[Callable[[Claim], bytes], Callable[[tuple[bytes, int]], Any]], ...] = (
            (lambda claim: wider_group(claim.source), network),
            (lambda claim: claim.source, network),
            (lambda claim: claim.author, author),
        )
        for name_of, share_of in ways:
            takes: Counter[bytes] = Counter()
            for claim in claims:
                takes[name_of(claim)] += claim.size if by_size else 1
            most, _ = max(takes.items(), key=share_of)
            claims = [claim for claim in claims if name_of(claim) == most]
        return claims[0]

    def _draw(self, network: bytes) -> bytes:
        return hashlib.blake2b(network, key=self._secret, digest_size=8).digest()
