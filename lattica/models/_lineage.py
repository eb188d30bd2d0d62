"""Where a model comes from: from manifest to manifest, as far as they can be found. Pure.

    lineage = Lineage(cid)
    while wanted := lineage.wanted():
        for cid in wanted:
            lineage.receive(cid, manifest)     # or None: nobody has it
    for line in lineage.lines(): ...

A publisher may name whatever they like as their ancestors, so the walk is bounded, and what is not
a manifest is where it ends: a root.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lattica.cid import CID, Codec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._manifest import SignedManifest

MAX_MANIFESTS = 1000  # of one lineage
MAX_LINKS = 20_000


@dataclass(slots=True)
class Ancestor:
    """One thing in a lineage.

    Attributes:
        cid: a manifest, or content.
        signed: the manifest, where it is one and was found.
        links: what it was made from, and how.
        depth: steps from the first.
        state: `found`, `content` (a root, not a manifest), `missing` (nobody has it), or `beyond`
            (the walk ended before it).
    """

    cid: CID
    depth: int
    signed: SignedManifest | None = None
    links: list[tuple[str, CID]] = field(default_factory=list)
    state: str = "beyond"


class Lineage:
    """A walk from a manifest to its roots, breadth first. See the module."""

    def __init__(self, cid: CID) -> None:
        """Begin at the manifest `cid`."""
        self.first = cid
        self.ancestors: dict[CID, Ancestor] = {cid: Ancestor(cid, 0)}
        self._queue = [cid]
        self._asked = self._links = 0

    @property
    def complete(self) -> bool:
        """Whether every manifest was found, and none left out."""
        return all(one.state in ("found", "content") for one in self.ancestors.values())

    def wanted(self) -> list[CID]:
        """Return the manifests to find next; none at the end."""
        room = MAX_MANIFESTS - self._asked
        queue, self._queue = self._queue[:room], []
        self._asked += len(queue)
        return queue

    def receive(self, cid: CID, signed: SignedManifest | None) -> None:
        """Take a manifest that was wanted; None where it was not found."""
        here = self.ancestors[cid]
        if signed is None:
            here.state = "missing"
            return
        here.state, here.signed = "found", signed
        for how, link in signed.manifest.links():
            if self._links >= MAX_LINKS:
                return
            self._links += 1
            here.links.append((how, link))
            if link in self.ancestors:
                continue
            is_manifest = link.codec == Codec.MESSAGEPACK
            state = "beyond" if is_manifest else "content"
            self.ancestors[link] = Ancestor(link, here.depth + 1, state=state)
            if is_manifest:
                self._queue.append(link)

    def lines(self) -> Iterator[tuple[int, str, Ancestor, bool]]:
        """Give the lineage as an indented list: depth, how, what, and whether it came before."""
        seen: set[CID] = set()
        stack: list[tuple[int, str, CID]] = [(0, "", self.first)]
        while stack:
            depth, how, cid = stack.pop()
            again = cid in seen
            seen.add(cid)
            yield depth, how, self.ancestors[cid], again
            if not again:
                links = self.ancestors[cid].links
                stack += [(depth + 1, how, link) for how, link in reversed(links)]

    def dot(self) -> str:
        """Return the lineage as a graph for Graphviz."""
        lines = ["digraph lineage {", "  rankdir=BT; node [shape=box];"]
        for cid, one in self.ancestors.items():
            manifest = one.signed.manifest if one.signed else None
            label = f"{manifest.name} v{manifest.version}" if manifest else one.state
            lines.append(f'  "{cid}" [label="{label}\\n{str(cid)[:12]}…"];')
            lines += (f'  "{cid}" -> "{link}" [label="{how}"];' for how, link in one.links)
        return "\n".join([*lines, "}"])
