"""libtorrent, run by the interpreter of `.foreign/torrent`: one seed and some receivers.

usage: python torrent.py FILE FOLDER RECEIVERS

Each `run` on standard input is answered with how long it took until all had the whole file, over
loopback, unencrypted, each session in a process of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import pathlib
import shutil
import sys
import time
from typing import Any

import libtorrent as lt  # type: ignore[import-not-found]  # it lives in its own environment

SETTINGS = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "allow_multiple_connections_per_ip": True,
    "alert_mask": 0,
    "in_enc_policy": 2,
    "out_enc_policy": 2,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
}


def session(port: int) -> Any:
    """A session that listens on loopback alone."""
    return lt.session({**SETTINGS, "listen_interfaces": f"127.0.0.1:{port}"})


def run_peer(
    number: int, ports: list[int], info: bytes, folder: str, began: Any, done: Any, end: Any
) -> None:
    """One peer: number 0 seeds, the others receive."""
    ses = session(ports[number])
    torrent = lt.torrent_info(lt.bdecode(info))
    handle = ses.add_torrent({"ti": torrent, "save_path": folder, "flags": 0})
    if number == 0:
        while not handle.status().is_seeding:
            time.sleep(0.05)
    began.wait()
    for other, port in enumerate(ports):
        if other != number:
            handle.connect_peer(("127.0.0.1", port))
    handle.resume()
    while not handle.status().is_seeding:
        time.sleep(0.005)
    done.release()
    end.wait()


def make_info(path: pathlib.Path) -> bytes:
    """The torrent of one file."""
    storage = lt.file_storage()
    lt.add_files(storage, str(path))
    torrent = lt.create_torrent(storage, 1 << 18 if path.stat().st_size < 1 << 28 else 1 << 20)
    lt.set_piece_hashes(torrent, str(path.parent))
    encoded: bytes = lt.bencode(torrent.generate())
    return encoded


def measure(path: pathlib.Path, folder: pathlib.Path, receivers: int) -> float:
    """Seconds until every receiver has it all."""
    info, ports = make_info(path), [46_881 + number for number in range(receivers + 1)]
    done, end = multiprocessing.Semaphore(0), multiprocessing.Event()
    began = multiprocessing.Barrier(receivers + 2)
    processes = []
    for number in range(receivers + 1):
        place = path.parent if number == 0 else folder / f"torrent-{number}"
        if number:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        arguments = (number, ports, info, str(place), began, done, end)
        processes.append(multiprocessing.Process(target=run_peer, args=arguments))
        processes[-1].start()
    began.wait()
    started = time.perf_counter()
    for _ in range(receivers + 1):  # the seed has it all from the start
        done.acquire()
    seconds = time.perf_counter() - started
    end.set()
    for process in processes:
        process.join()
    return seconds


def main() -> None:
    path, folder, receivers = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": measure(path, folder, receivers)}), flush=True)


if __name__ == "__main__":
    main()
