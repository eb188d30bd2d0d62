"""Every error this library raises on purpose, sorted by what the caller can do about it.

`LatticaError` is the root; anything else that escapes is a bug. Each class has a stable `code` for
programs and `--json`, a `hint` that says what to do next, and says whether trying again can help.
The command line exits with `exit_code`. Layers add subclasses beside the code that raises them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from lattica.cid import CID
    from lattica.identity import PeerId


class LatticaError(Exception):
    """Base of every error this library raises on purpose.

    Attributes:
        code: stable name of the kind of failure.
        exit_code: what the command line returns.
        retryable: True where the same call may succeed later, unchanged.
        hint: what to do next.
        peer: whom it concerns, where one peer does.
        cid: which content it concerns, where one object does.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    hint: str = "run again with -v and report what it prints"

    def __init__(
        self,
        message: str,
        *,
        peer: PeerId | None = None,
        cid: CID | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.peer, self.cid = peer, cid
        if hint is not None:
            self.hint = hint


class InvalidInput(LatticaError):
    """What the caller passed is not what it should be: a CID, an address, a ticket, a flag."""

    code = "invalid-input"
    exit_code = 2
    hint = "correct the value; nothing was done"


class NotFound(LatticaError):
    """Nobody we could ask has it."""

    code = "not-found"
    exit_code = 3
    retryable = True
    hint = "check the reference, and that a peer which holds it is running"


class Unreachable(LatticaError):
    """A peer could not be reached, or was lost."""

    code = "unreachable"
    exit_code = 4
    retryable = True
    hint = "check the address and that the peer is running, then try again"


class IntegrityError(LatticaError):
    """Bytes arrived that do not hash to what was asked for. Ask another peer."""

    code = "integrity"
    exit_code = 5
    retryable = True
    hint = "another provider is asked; nothing wrong was written"


class SourceChanged(LatticaError):
    """A shared file is no longer what was shared, so its bytes are not served."""

    code = "source-changed"
    exit_code = 5
    hint = "share the file again to give its new contents a new identifier"


class Refused(LatticaError):
    """The peer understood and declined."""

    code = "refused"
    exit_code = 6
    hint = "ask the peer's owner for access, or ask another peer"


class DeadlineExceeded(LatticaError):
    """The time allowed ran out."""

    code = "deadline"
    exit_code = 7
    retryable = True
    hint = "allow more time; what was done so far is kept"


class ProtocolError(LatticaError):
    """The peer broke the protocol. The connection is dropped; retrying will not help."""

    code = "protocol"
    hint = "the peer runs something incompatible or hostile; use another peer"


class LimitExceeded(LatticaError):
    """A bound that protects this node was reached."""

    code = "limit"
    retryable = True
    hint = "try again later, or raise the limit that the message names"


class CodecError(ProtocolError):
    """Bytes are not a value in the form that the wire demands."""

    code = "codec"
