"""Results as people read them. What programs read is the same JSON that came from the node."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lattica._home import Home
from lattica._progress import ProgressDisplay, size

from ._output import Face

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lattica.config import Config

    from ._output import Output


def started(output: Output, label: str) -> None:
    """Say as an event what begins: once, whichever node then does it."""
    output.event("start", {"what": label})


@contextmanager
def progress(output: Output, label: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show the progress of one call on stderr, or as events."""
    if output.face is Face.JSON_LINES:
        yield lambda report: output.event("progress", report)
    elif output.quiet:
        yield lambda _report: None
    else:
        with ProgressDisplay(label, output.stderr) as display:
            yield display.update


def node_is_up(output: Output, status: dict[str, Any]) -> None:
    """Say that a node runs, and where."""
    output.event("up", status)
    for address in status["addresses"]:
        output.data(address)
    output.say(f"node {status['peer']} is up on {status['home']}; Ctrl-C stops it")


def bootstrap_is_up(output: Output, status: dict[str, Any]) -> None:
    """Say that a bootstrap node runs, and what others paste."""
    output.event("up", status)
    for address in status["addresses"]:
        output.data(address)
    output.say("others join with:")
    for address in status["addresses"]:
        output.say(f"  --bootstrap {address}")
    output.say("Ctrl-C stops it")


def shared(output: Output, share: dict[str, Any]) -> None:
    """Say what is shared, and print the line that gets it."""
    rate = f", {size(share['size'] / share['seconds'])}/s" if share["seconds"] > 0.05 else ""
    parts = f", {share['segments']} segments" if share["segments"] > 1 else ""
    output.say(
        f"{share['name']}: {size(share['size'])}{parts}, hashed in {share['seconds']:.1f} s{rate}"
    )
    output.say(f"CID {share['cid']}")
    output.data(share["ticket"] if output.quiet else f"lattica get {share['ticket']}")
    output.result(share, "shared")


def fetched(output: Output, result: dict[str, Any]) -> None:
    """Say how it went, and print where the object is."""
    seconds, received = result["seconds"], result["received_bytes"]
    rate = f", {size(received / seconds)}/s" if seconds > 0.05 and received else ""
    kept = result["size"] - received
    packed = f" as {size(wire)}" if (wire := result["wire_bytes"]) < received else ""
    parts = [f"{size(received)} received{packed}{rate}"]
    if result["deltas"] and kept > 0:
        parts.append(f"saved {100 * kept / result['size']:.1f} % by deltas")
    elif kept > 0:
        parts.append(f"{size(kept)} were here already")
    sources = result["sources"]
    if len(sources) > 1:
        parts.append(f"{len(sources)} peers")
    if result["bad_leaves"]:
        parts.append(f"{result['bad_leaves']} wrong leaves refused")
    output.say(f"done in {seconds:.1f} s: {', '.join(parts)}; every byte matches {result['cid']}")
    output.data(result["path"])
    output.result(result, "done")


def range_read(output: Output, result: dict[str, Any]) -> None:
    """Print where a part of an object is."""
    output.say(
        f"{size(result['length'])} at {result['offset']}; every byte matches {result['cid']}"
    )
    output.data(result["path"])
    output.result(result, "done")


def status(output: Output, found: dict[str, Any]) -> None:
    """Print who this node is."""
    output.data(found["peer"])
    for address in found["addresses"]:
        output.data(address)
    if not found["running"]:
        output.say("no node runs on this home")
    output.result(found)


def peers(output: Output, found: list[dict[str, Any]]) -> None:
    """List connections."""
    rows = [
        (
            peer["peer"],
            "in" if peer["inbound"] else "out",
            "" if peer["rtt_ms"] is None else f"{peer['rtt_ms']:.2f} ms",
            peer["security"],
            peer["agent"],
            peer["address"],
        )
        for peer in found
    ]
    output.table(("PEER", "DIALLED", "RTT", "SECURITY", "AGENT", "ADDRESS"), rows)
    if not rows:
        output.say("no peer is connected")
    output.result({"peers": found})


def announcements(output: Output, found: list[dict[str, Any]]) -> None:
    """List what peers announced."""
    rows = [(item["cid"], size(item["size"]), item["name"], item["peer"]) for item in found]
    output.table(("CID", "SIZE", "NAME", "PEER"), rows)
    if not rows:
        output.say("nothing was announced since this node came up")
    output.result({"announcements": found})


def pong(output: Output, found: dict[str, Any]) -> None:
    """Print round trips."""
    for trip in found["round_trips_ms"]:
        output.data(f"{trip:.3f} ms")
    output.say(f"{found['peer']} at {found['address']}")
    output.result(found)


def objects(output: Output, found: list[dict[str, Any]]) -> None:
    """List the store."""
    rows = [
        (
            item["cid"],
            size(item["size"]),
            item["state"] + ", pinned" * item["pinned"],
            time.strftime("%Y-%m-%d %H:%M", time.localtime(item["added"])),
            item["path"],
        )
        for item in found
    ]
    output.table(("CID", "SIZE", "STATE", "ADDED", "PATH"), rows)
    if not rows:
        output.say("nothing is shared yet: `lattica share PATH`")
    output.result({"objects": found})


def verification(output: Output, found: dict[str, Any]) -> None:
    """Say whether an object on disk is still what it was."""
    for item in found["damaged"]:
        place = f"{item['path']} at {item['offset']}".strip()
        output.data(f"{place}\t{item['length']} bytes\t{item['reason']}")
    more = found["damaged_count"] - len(found["damaged"])
    if more > 0:
        output.say(f"and {more} more")
    verdict = (
        f"{found['damaged_count']} damaged blocks"
        if found["damaged_count"]
        else "all of it matches"
    )
    for place in found["differing"]:
        output.say(f"{place} is not what it was; a copy elsewhere is, and is served")
    mended = found["repaired_bytes"]
    repaired = f"{size(mended)} mended; " if mended else ""
    output.say(f"{repaired}{size(found['checked_bytes'])} checked: {verdict}")
    output.result(found)


def settings(output: Output, found: Config) -> None:
    """List settings with their origins."""
    rows = [("home", str(found.home), found.home_origin)]
    for name, setting in found.settings.items():
        value, origin = setting.value, setting.origin
        if name == "swarm_key" and not value and os.path.lexists(Home(found.home).swarm_key):
            value, origin = str(Home(found.home).swarm_key), "home"
        text = (
            " ".join(value)
            if isinstance(value, tuple)
            else str(value).lower()
            if isinstance(value, bool)
            else value
        )
        rows.append((name, text, origin))
    output.table(("SETTING", "VALUE", "FROM"), rows)
    output.result({name: {"value": value, "from": origin} for name, value, origin in rows})


def short(ref: str) -> str:
    """Return enough of a ticket or CID to know it again."""
    ref = ref.removeprefix("lattica:")
    return ref if len(ref) <= 16 else f"{ref[:6]}…{ref[-6:]}"
