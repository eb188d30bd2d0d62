"""A rust-libp2p node: Gradient's Lattica, run by the interpreter of `.foreign/rust`.

It serves one call that returns its argument, and dials what it is given as bootstrap node. A line
`put HEX` on its stdin keeps a block, `get CID` asks its peers for one, `store KEY SUBKEY HEX` puts
bytes into its DHT (SUBKEY may be `-`: none), `look KEY` gets them; each is answered in a line.
usage: python -P rust_peer.py PORT [BOOTSTRAP]
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
from typing import Any

sys.path = [entry for entry in sys.path if entry not in ("", os.getcwd())]  # ours has its name

theirs: Any = importlib.import_module("lattica")


class Raw:
    """Bytes as they are: it passes for a protobuf message, so nothing is pickled."""

    data = b""

    def SerializeToString(self) -> bytes:
        return self.data

    def ParseFromString(self, data: bytes) -> None:
        self.data = bytes(data)


class Echo(theirs.ConnectionHandler):  # type: ignore[misc]  # known only where this runs
    @theirs.rpc_method  # type: ignore[untyped-decorator]
    def echo(self, message: Raw) -> Raw:
        return message


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        address = f"/ip4/127.0.0.1/tcp/{sys.argv[1]}"
        builder = theirs.Lattica.builder().with_listen_addrs([address])
        builder = builder.with_external_addrs([address])  # else its DHT answers nobody
        builder = builder.with_mdns(False).with_upnp(False).with_autonat(False).with_dcutr(False)
        builder = builder.with_storage_path(f"{folder}/storage").with_key_path(f"{folder}/key")
        builder = builder.with_dht_db_path(f"{folder}/dht").with_bootstraps(sys.argv[2:])
        node = builder.build()
        node.register_service(Echo(node))
        say(ready=node.peer_id())
        for line in sys.stdin:
            command, argument, *more = line.split()
            if command == "put":
                say(cid=node.put_block(bytes.fromhex(argument)))
            elif command == "get":
                say(data=bytes(node.get_block(argument, 20)[1]).hex())
            elif command == "store":
                subkey = None if more[0] == "-" else more[0]
                say(stored=node.store(argument, bytes.fromhex(more[1]), time.time() + 600, subkey))
            elif command == "store-object":
                say(stored=node.store(argument, {"a": 1}, time.time() + 600))
            else:
                say(values=values_of(node.get(argument)))


def values_of(found: Any) -> dict[str, str]:
    """What it got from its DHT, by subkey, in hexadecimal."""
    if found is None:
        return {}
    if not isinstance(found.value, dict):
        return {"": bytes(found.value).hex()}
    return {subkey: bytes(each.value).hex() for subkey, each in found.value.items()}


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
