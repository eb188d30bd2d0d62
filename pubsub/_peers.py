"""What the router knows of one peer."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ._message_id import IdForm

if TYPE_CHECKING:
    from lattica.identity import PeerId

    from ._outbox import Outbox


class Version(enum.IntEnum):
    """Which GossipSub a peer speaks; each understands what the ones before it do."""

    V1_0 = 0
    V1_1 = 1
    V1_2 = 2


PROTOCOLS = {
    "/meshsub/1.2.0": Version.V1_2,
    "/meshsub/1.1.0": Version.V1_1,
    "/meshsub/1.0.0": Version.V1_0,
}  # the one we prefer first


@dataclass(slots=True, eq=False)
class Peer:
    """One connected peer. The counters start anew with each heartbeat.

    Attributes:
        id: who it is.
        version: what it speaks.
        outbound: True where we dialled it.
        outbox: what waits to be sent.
        topics: what it subscribed to, in order; a dict for its order.
        topics_bytes: their size in UTF-8.
        id_form: how it spells message names.
        unwanted: messages it declined, until when.
        items_heard: what it said in this heartbeat, counted (`Rpc.items`).
        ihave_heard: RPCs with announcements in this heartbeat.
        ids_asked: identifiers we asked it for in this heartbeat.
        ids_declined: identifiers it declined in this heartbeat.
        welcomed: topics it was told the recent messages of in this heartbeat.
    """

    id: PeerId
    version: Version
    outbound: bool
    outbox: Outbox
    topics: dict[str, None] = field(default_factory=dict)
    topics_bytes: int = 0
    id_form: IdForm = IdForm.PEER_ID
    unwanted: dict[bytes, float] = field(default_factory=dict)
    items_heard: int = 0
    ihave_heard: int = 0
    ids_asked: int = 0
    ids_declined: int = 0
    welcomed: set[str] = field(default_factory=set)

    def subscribe(self, topic: str) -> None:
        """Note that it subscribed to a topic."""
        if topic not in self.topics:
            self.topics[topic] = None
            self.topics_bytes += len(topic.encode())

    def unsubscribe(self, topic: str) -> None:
        """Note that it gave a topic up."""
        if topic in self.topics:
            del self.topics[topic]
            self.topics_bytes -= len(topic.encode())

    def start_heartbeat(self, now: float) -> None:
        """Reset the counters and forget what was declined long ago."""
        self.items_heard = self.ihave_heard = self.ids_asked = self.ids_declined = 0
        self.welcomed.clear()
        if self.unwanted:
            self.unwanted = {one: until for one, until in self.unwanted.items() if until > now}
