"""Private swarms and sealed objects by hand: real processes, one home each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .test_main_job import LOCAL, Shell, line_of

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.slow  # eight processes each; tests/node has the same in one


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_members_get_what_others_are_refused(shell: Shell) -> None:
    source = shell.file("model.bin")
    assert shell.run("one", "swarm", "new").returncode == 0
    invite = shell.run("one", "swarm", "invite").stdout.strip()
    assert shell.run("two", "swarm", "join", invite).returncode == 0
    with shell.running("one", "share", str(source), *LOCAL) as sharer:
        ticket = line_of(sharer).split()[-1]
        got = shell.run("two", "get", ticket, "-o", "copy.bin", *LOCAL)
        assert got.returncode == 0, got.stderr
        assert (shell.folder / "copy.bin").read_bytes() == source.read_bytes()
        refused = shell.run("three", "get", ticket, "-o", "never.bin", *LOCAL)
        assert refused.returncode == 6
        assert "swarm-key-mismatch" in refused.stderr
        assert not (shell.folder / "never.bin").exists()


def test_recipients_get_what_others_cannot_read(shell: Shell) -> None:
    source = shell.file("model.bin")
    recipient = shell.run("two", "id").stdout.splitlines()[0]
    with shell.running("one", "share", str(source), "--encrypt-to", recipient, *LOCAL) as sharer:
        ticket = line_of(sharer).split()[-1]
        got = shell.run("two", "get", ticket, "-o", "copy.bin", *LOCAL)
        assert got.returncode == 0, got.stderr
        assert (shell.folder / "copy.bin").read_bytes() == source.read_bytes()
        refused = shell.run("three", "get", ticket, "-o", "never.bin", *LOCAL)
        assert refused.returncode == 6
        assert "not-a-recipient" in refused.stderr
        kept = shell.run("three", "get", ticket, "--sealed", "-o", "kept.bin", *LOCAL)
        assert kept.returncode == 0, kept.stderr
        assert source.read_bytes()[:64] not in (shell.folder / "kept.bin").read_bytes()
