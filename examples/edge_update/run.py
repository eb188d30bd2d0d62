"""A small device on a thin, bad line gets a model, and later its update, which is a delta.

    python examples/edge_update/run.py

The publisher trains a network and publishes it in int8. The device is the plain `lattica get`,
allowed 1 Mbit/s, and killed at random moments: each time it goes on where it was. Then it is
offline while the publisher trains on. What it gets afterwards is what changed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _roles import LOCAL, answer, role

LINE_BYTES = 125_000  # a second: 1 Mbit/s
MEMORY_MIB = 128
MAX_RUNS = 30  # of the device for one version


# --- the publisher


def publish_versions(folder: Path) -> None:
    """Train, quantise and publish, as often as asked."""
    import numpy as np
    from safetensors.numpy import save_file

    import lattica

    rng = np.random.default_rng(7)
    teacher = rng.normal(size=(256, 10)).astype(np.float32)
    layers = [
        rng.normal(0, np.sqrt(2 / fan_in), (fan_in, fan_out)).astype(np.float32)
        for fan_in, fan_out in ((256, 1024), (1024, 512), (512, 10))
    ]

    def train(steps: int, rate: float) -> float:
        loss = 0.0
        for _ in range(steps):
            inputs = rng.normal(size=(64, 256)).astype(np.float32)
            labels = (inputs @ teacher).argmax(axis=1)
            hidden = [inputs]
            for number, weight in enumerate(layers):
                out = hidden[-1] @ weight
                hidden.append(out if number == 2 else np.maximum(out, 0))
            shares = np.exp(hidden[-1] - hidden[-1].max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
            loss = float(-np.log(shares[np.arange(64), labels] + 1e-9).mean())
            shares[np.arange(64), labels] -= 1
            upstream = shares / 64
            for number in (2, 1, 0):
                gradient = hidden[number].T @ upstream
                upstream = (upstream @ layers[number].T) * (hidden[number] > 0)
                layers[number] -= rate * gradient
        return loss

    scales = [float(np.abs(weight).max()) / 100 for weight in layers]  # room to grow, kept

    def publish(version: int, steps: int, rate: float) -> dict[str, Any]:
        loss = train(steps, rate)
        state: dict[str, Any] = {}
        for number, weight in enumerate(layers):
            quantised = np.clip(np.rint(weight / scales[number]), -127, 127).astype(np.int8)
            state[f"layers.{number}.weight"] = quantised
            state[f"layers.{number}.scale"] = np.array(scales[number], np.float32)
        path = folder / f"v{version}.safetensors"
        save_file(state, path)
        published = node.publish("lab/assistant-int8", path, licence="Apache-2.0")
        return {
            "ticket": str(published.ticket),
            "cid": str(published.root),
            "full_bytes": published.full_bytes,
            "float_bytes": sum(weight.nbytes for weight in layers),
            "loss": loss,
        }

    with lattica.Node(folder / "home", bootstrap=[], **LOCAL) as node:
        answer({"publish": publish})


# --- the device


class Device:
    """`lattica get` on a home of its own, with a thin line, killed now and then."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._folder, self._chance = folder, chance
        self.peak_mib = 0.0

    def get(self, ticket: str, name: str, kills: int) -> dict[str, Any]:
        """Get what a ticket names; returns how it went."""
        started, received, done = time.monotonic(), 0, None
        for attempt in range(MAX_RUNS):
            doomed = attempt < kills
            came, done = self._run(ticket, name, self._chance.uniform(1, 2.5) if doomed else None)
            received += came
            if done is not None:
                break
        if done is None:
            raise SystemExit(f"the device did not get {name} in {MAX_RUNS} runs")
        return {**done, "received": received, "seconds": time.monotonic() - started}

    def _run(
        self, ticket: str, name: str, killed_after_s: float | None
    ) -> tuple[int, dict[str, Any] | None]:
        """Run the command once; returns the bytes that came, and its result if it got so far."""
        command = [sys.executable, "-P", "-m", "lattica", "get", ticket, "--json-lines"]
        command += ["-o", str(self._folder / name), "--max-down", str(LINE_BYTES), "--no-mdns"]
        command += ["--listen", "/ip4/127.0.0.1/tcp/0"]
        others = {key: value for key, value in os.environ.items() if "LATTICA" not in key}
        with subprocess.Popen(
            command,
            env={**others, "LATTICA_HOME": str(self._folder / "home")},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            timer = threading.Timer(killed_after_s or 300, process.send_signal, [signal.SIGKILL])
            timer.start()
            came, result = 0, None
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "progress":
                    came = event["received_bytes"]
                elif event["event"] == "done":
                    came, result = event["received_bytes"], event
                elif event["event"] == "error":
                    print(f"  the device: {event['message']}")
            timer.cancel()
            _, _, usage = os.wait4(process.pid, 0)
            process.returncode = 0
        self.peak_mib = max(self.peak_mib, usage.ru_maxrss / 1024)
        return came, result


# --- the story


def main() -> None:
    """Run the example."""
    with tempfile.TemporaryDirectory(prefix="lattica-edge-") as name:
        folder = Path(name)
        for part in ("lab", "device"):
            (folder / part).mkdir()
        with role(__file__, "publisher", folder / "lab") as publisher:
            device = Device(folder / "device", random.Random(3))
            first = publisher.ask("publish", version=1, steps=60, rate=0.05)
            print(
                f"v1: {first['full_bytes']:,} bytes in int8, of {first['float_bytes']:,} in float32"
            )
            got = device.get(first["ticket"], "v1.safetensors", kills=2)
            _tell("v1", got, first)
            assert got["received"] <= 1.3 * first["full_bytes"], "a resume began from the start"

            second = publisher.ask("publish", version=2, steps=10, rate=0.01)
            print("\nthe device is offline; the publisher trains on and publishes v2")
            update = device.get(second["ticket"], "v2.safetensors", kills=0)
            _tell("v2", update, second)
            assert update["deltas"], "the update was no delta"
            for version, published in (("v1", first), ("v2", second)):
                ours = (folder / "device" / f"{version}.safetensors").read_bytes()
                assert ours == (folder / "lab" / f"{version}.safetensors").read_bytes()
                assert len(ours) == published["full_bytes"]
        print(
            f"\nlargest memory of the device: {device.peak_mib:.0f} MiB, allowed: {MEMORY_MIB} MiB"
        )
        assert device.peak_mib <= MEMORY_MIB
    print(
        "Not shown: a phone's battery and flash, a line with delays and losses, and what the update"
        "\ndoes for the quality of a model that people use."
    )


def _tell(name: str, got: dict[str, Any], published: dict[str, Any]) -> None:
    share = 100 * got["received"] / published["full_bytes"]
    whole = published["full_bytes"] / LINE_BYTES
    print(
        f"{name} is on the device after {got['seconds']:.1f} s and {got['received']:,} bytes, "
        f"{share:.1f} % of it; whole it takes {whole:.1f} s on this line, without a break"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["publisher"]:
        publish_versions(Path(sys.argv[2]))
    else:
        main()
