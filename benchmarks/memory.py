"""Resident memory of both sides while one large file is fetched."""

from __future__ import annotations

from ._content import MIB, getting, make_file, sharing, workspace
from ._report import Report
from ._rounds import tell


def run(*, quick: bool, peers: bool) -> Report:
    """Measure the largest resident set of the sharing and of the getting process."""
    del peers
    report = Report("memory")
    size = 512 * MIB if quick else 4096 * MIB
    with workspace() as folder:
        tell(f"writing {size // MIB} MiB")
        make_file(folder / "original", size)
        with (
            sharing(folder / "original", folder / "seed") as seed,
            getting(seed.ready, folder / "getter") as getter,
        ):
            tell("fetching")
            rate = getter.run()["mb_per_s"]
            report.add("sender_rss_mib", "MiB", [seed.peak_rss_mib()])
            report.add("receiver_rss_mib", "MiB", [getter.peak_rss_mib()])
    report.add("size", "MiB", [size / MIB])
    report.add("fetch", "MB/s", [rate])
    report.targets = {"sender_rss_mib": ("<=", 256), "receiver_rss_mib": ("<=", 256)}
    return report
