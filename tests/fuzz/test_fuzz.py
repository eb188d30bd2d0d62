"""A short run of the fuzzer; `make fuzz` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_no_decoder_fails_on_5000_malformed_inputs() -> None:
    command = [sys.executable, str(Path(__file__).parent), "--count", "5000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
