"""Share models, tensors and messages between peers without a broker.

    async with lattica.open_node() as node: ...      # Trio
    with lattica.Node() as node: ...                 # blocking, same methods

Everything below is loaded when it is first used, so that `import lattica` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica._version import __version__ as __version__
    from lattica.cid import CID as CID
    from lattica.errors import (
        DeadlineExceeded as DeadlineExceeded,
        IntegrityError as IntegrityError,
        InvalidInput as InvalidInput,
        LatticaError as LatticaError,
        LimitExceeded as LimitExceeded,
        NotFound as NotFound,
        ProtocolError as ProtocolError,
        Refused as Refused,
        SourceChanged as SourceChanged,
        Unreachable as Unreachable,
    )
    from lattica.identity import Identity as Identity, PeerId as PeerId
    from lattica.node import AsyncNode as AsyncNode, open_node as open_node
    from lattica.results import (
        Fetched as Fetched,
        Phase as Phase,
        Progress as Progress,
        Share as Share,
        SharedObject as SharedObject,
    )
    from lattica.sync import Node as Node
    from lattica.ticket import Ticket as Ticket
    from lattica.transport import Multiaddr as Multiaddr

_HOME_OF = {
    "CID": "cid",
    "DeadlineExceeded": "errors",
    "IntegrityError": "errors",
    "InvalidInput": "errors",
    "LatticaError": "errors",
    "LimitExceeded": "errors",
    "NotFound": "errors",
    "ProtocolError": "errors",
    "Refused": "errors",
    "SourceChanged": "errors",
    "Unreachable": "errors",
    "Identity": "identity",
    "PeerId": "identity",
    "AsyncNode": "node",
    "open_node": "node",
    "Fetched": "results",
    "Phase": "results",
    "Progress": "results",
    "Share": "results",
    "SharedObject": "results",
    "Node": "sync",
    "Ticket": "ticket",
    "Multiaddr": "transport",
    "__version__": "_version",
}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'lattica' has no attribute {name!r}")
    return getattr(importlib.import_module(f"lattica.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
