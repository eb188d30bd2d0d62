"""py-libp2p's services on our mesh: rendezvous, relay, AutoNAT and what else the ecosystem has.

They are written against py-libp2p's host, not against ours. `open_libp2p_host` puts its interfaces
in front of a mesh, so that such a service gets our connections and streams and does not notice:

    async with open_libp2p_host(mesh) as host:
        await RendezvousDiscovery(host, rendezvous_peer).advertise("swarm")

The package is an optional extra, because it needs a compiler to install, and it is imported only
here and only when asked for: that costs 0.5 s and 70 MB. We pin its version and use no part of its
own swarm, muxers or security.
"""

from __future__ import annotations

import importlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from lattica.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ._libp2p_host import MeshHost
    from .mesh import Mesh


class Libp2pMissing(InvalidInput):
    """What was asked for needs py-libp2p, which is not installed, or cannot be loaded."""

    code = "libp2p-missing"
    hint = (
        "pip install 'lattica-mesh[libp2p]'; on Linux this needs a C compiler, the Python headers"
        " and those of GMP (Debian: build-essential python3-dev libgmp-dev)"
    )


@asynccontextmanager
async def open_libp2p_host(mesh: Mesh) -> AsyncIterator[MeshHost]:
    """Run `mesh` as a py-libp2p host (`libp2p.abc.IHost`) until the block ends.

    The host dials, opens streams and serves protocols through the mesh, tells notifees of peers
    that come and go, and keeps a py-libp2p peer store up to date. What it serves is served no more
    when the block ends; the mesh itself lives on.

    Raises:
        Libp2pMissing: py-libp2p is not installed.
    """
    try:
        # In a thread: half a second of importing would hold up every connection of the mesh.
        module = await trio.to_thread.run_sync(
            importlib.import_module, "lattica.transport._libp2p_host"
        )
    except ImportError as error:
        raise Libp2pMissing(f"py-libp2p cannot be loaded: {error}") from error
    async with module.run_host(mesh) as host:
        yield host
