"""Knowing a pickle by its first bytes, to refuse it by its name. Nothing here reads one."""

from __future__ import annotations

PICKLE = "this looks like a pickle, which is never read: it can run any code"
_FRAMED = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))  # PROTO n: protocols 2 to 5
_TEXTUAL = (b"(lp", b"(dp", b"(ip", b"c__built", b"ccopy_re", b"cposix\n", b"cos\n")
_ZIP, _IN_ZIP = b"PK\x03\x04", b"data.pkl"  # the first member of what `torch.save` writes


def looks_like_pickle(data: bytes | bytearray | memoryview) -> bool:
    """Say whether bytes begin as a pickle does, or as a file of `torch.save`, which holds one."""
    start = bytes(data[:256])
    if start.startswith(_ZIP):
        return _IN_ZIP in start
    return start.startswith((*_FRAMED, *_TEXTUAL))
