"""Who holds an object now: asked of peers one by one, by the first question of a fetch (HAVE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from lattica.errors import LatticaError, ProtocolError

from ._messages import (
    ALL_LEAVES,
    PROTOCOL,
    AnswerDecoder,
    AnswerHead,
    AnswerKind,
    HaveRequest,
    encode_request,
)

if TYPE_CHECKING:
    from lattica.cid import CID
    from lattica.identity import PeerId
    from lattica.transport import Mesh, PeerInfo

_ANSWER_SECONDS = 5.0  # to connect and to answer
_MAX_ANSWERS = 64  # on one stream, before its end


@dataclass(frozen=True, slots=True)
class Holder:
    """A peer that holds some of an object.

    Attributes:
        leaves: how many; None where it holds all.
    """

    peer: PeerId
    leaves: int | None


async def ask_holder(mesh: Mesh, info: PeerInfo, root: CID) -> Holder | None:
    """Ask a peer what it holds of `root`; None where that is nothing, or it does not say."""
    try:
        with trio.move_on_after(_ANSWER_SECONDS):
            await mesh.connect(info.peer, info.addresses)
            async with await mesh.open_stream(info.peer, PROTOCOL) as stream:
                await stream.send_message(encode_request(HaveRequest(1, root)))
                await stream.send_eof()
                decoder, leaves, answers = AnswerDecoder(_refuse_leaf), 0, 0
                while data := await stream.receive_some():
                    for answer in decoder.receive(data):
                        answers += 1
                        if answer.head.kind == AnswerKind.END or answers > _MAX_ANSWERS:
                            return Holder(info.peer, leaves) if leaves else None
                        if answer.head.kind == AnswerKind.HAVE:
                            if answer.head.flags & ALL_LEAVES:
                                return Holder(info.peer, None)
                            leaves += int.from_bytes(answer.payload, "little").bit_count()
    except (LatticaError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    return None


def _refuse_leaf(head: AnswerHead) -> memoryview:
    raise ProtocolError(f"a leaf of {head.length} bytes that nobody asked for")
