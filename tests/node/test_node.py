"""Whole nodes: what is shared on one arrives on another, found, verified and served on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import trio

import lattica
from lattica.content import NoProvider
from lattica.errors import DeadlineExceeded, InvalidInput, NotFound
from lattica.results import Phase, Progress

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from .conftest import Lab

SIZE = 3_000_000


async def test_a_ticket_is_enough_to_get_a_file(lab: Lab, tmp_path: Path) -> None:
    source = lab.file("model.bin", SIZE)
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(source)
        got = await b.get(str(shared.ticket), tmp_path / "copy.bin")
        assert (tmp_path / "copy.bin").read_bytes() == source.read_bytes()
        assert (got.cid, got.size, got.received_bytes) == (shared.cid, SIZE, SIZE)
        assert [(part.peer, part.received_bytes) for part in got.sources] == [(a.id, SIZE)]


async def test_a_cid_is_enough_when_both_know_a_bootstrap_node(lab: Lab, tmp_path: Path) -> None:
    source = lab.file("model.bin", SIZE)
    async with lab.node("meeting") as meeting:
        where = meeting.addresses[0]
        async with lab.node("a", where) as a, lab.node("b", where, dht_server=False) as b:
            shared = await a.share(source)
            with trio.fail_after(20):
                got = await b.get(str(shared.cid), tmp_path / "copy.bin")
        assert got.path.read_bytes() == source.read_bytes()


async def test_a_safetensors_file_is_cut_at_its_tensors(lab: Lab, tmp_path: Path) -> None:
    source = lab.safetensors("m.safetensors", 100_000, 0, 300_000)
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(source)
        assert shared.segments == 3  # the header and the two tensors that are not empty
        got = await b.get(shared.ticket, tmp_path / "copy.safetensors")
        assert got.path.read_bytes() == source.read_bytes()
        assert (await b.share(got.path)).cid == shared.cid


async def test_who_has_got_it_serves_it_when_the_first_is_gone(lab: Lab, tmp_path: Path) -> None:
    source = lab.file("model.bin", SIZE)
    async with lab.node("meeting") as meeting, lab.node("b", meeting.addresses[0]) as b:
        async with lab.node("a", meeting.addresses[0]) as a:
            shared = await a.share(source)
            await b.get(shared.ticket, tmp_path / "b.bin")
        source.unlink()
        async with lab.node("c", meeting.addresses[0]) as c:
            with trio.fail_after(20):
                got = await c.get(shared.cid, tmp_path / "c.bin")
            assert [part.peer for part in got.sources] == [b.id]


async def test_a_directory_arrives_as_it_was(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "set" / "inner").mkdir(parents=True)
    (tmp_path / "set" / "one.txt").write_text("one")
    (tmp_path / "set" / "inner" / "two.txt").write_text("two")
    (tmp_path / "into").mkdir()
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(tmp_path / "set")
        got = await b.get(shared.ticket, tmp_path / "into")
        assert got.path == tmp_path / "into" / "set"
        assert (got.path / "inner" / "two.txt").read_text() == "two"


async def test_a_directory_of_symlinks_arrives_as_the_files_behind_them(
    lab: Lab, tmp_path: Path
) -> None:
    snapshot = tmp_path / "models--ada--tiny" / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    blob = lab.file("blob", SIZE)
    (snapshot / "model.safetensors").symlink_to(blob)
    async with lab.node("a") as a, lab.node("b") as b:
        with pytest.raises(InvalidInput) as caught:
            await a.share(snapshot)
        assert "--follow-symlinks" in (caught.value.hint or "")
        shared = await a.share(snapshot, follow_symlinks=True)
        await b.get(shared.ticket, tmp_path / "copy")
    copy = tmp_path / "copy" / "model.safetensors"
    assert not copy.is_symlink()
    assert copy.read_bytes() == blob.read_bytes()


async def test_a_failed_get_names_the_bootstrap_peers_that_were_not_reached(
    lab: Lab, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lab.node("a", "/memory/99") as a:
        with pytest.raises(NoProvider) as caught:
            await a.get(lattica.CID.of(b"nobody has this"), tmp_path / "copy")
    assert "/memory/99" in (caught.value.hint or "")


async def test_progress_counts_verified_bytes_up_to_all_of_them(lab: Lab, tmp_path: Path) -> None:
    source = lab.file("model.bin", SIZE)
    hashed: list[Progress] = []
    fetched: list[Progress] = []
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(source, progress=hashed.append)
        await b.get(shared.ticket, tmp_path / "copy.bin", progress=fetched.append)
    assert hashed[-1] == Progress(Phase.HASH, SIZE, SIZE)
    counts = [report.done_bytes for report in fetched if report.phase is Phase.FETCH]
    assert counts == sorted(counts)
    assert counts[-1] == SIZE


async def test_a_cancelled_get_resumes(lab: Lab, tmp_path: Path) -> None:
    source = lab.file("model.bin", 8 * SIZE)
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(source)
        with trio.CancelScope() as scope:

            def stop_halfway(report: Progress) -> None:
                if report.phase is Phase.FETCH and report.done_bytes > 4 * SIZE:
                    scope.cancel()

            await b.get(shared.ticket, tmp_path / "copy.bin", progress=stop_halfway)
        assert scope.cancelled_caught
        assert not (tmp_path / "copy.bin").exists()
        got = await b.get(shared.ticket, tmp_path / "copy.bin")
        assert got.received_bytes < 4 * SIZE
        assert got.path.read_bytes() == source.read_bytes()


async def test_a_get_of_what_nobody_has_ends_at_its_deadline(lab: Lab, tmp_path: Path) -> None:
    absent = lattica.CID.of(b"nobody has this")
    async with lab.node("a") as a, lab.node("b", a.addresses[0]) as b:
        with pytest.raises(DeadlineExceeded, match=r"not done within 0\.3 s"):
            await b.get(absent, tmp_path / "copy", timeout=0.3)
        assert not (tmp_path / "copy").exists()


async def test_a_get_without_a_name_is_called_by_its_cid(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = lab.file("model.bin", 1000)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(source)
        assert (await b.get(shared.ticket)).path == tmp_path / "here" / "model.bin"
        got = await b.get(shared.cid, peers=a.addresses)
        assert got.path == tmp_path / "here" / str(shared.cid)


@pytest.mark.parametrize("reference", ["", "bafk", "lattica:aaaa", "/ip4/127.0.0.1/tcp/1"])
async def test_a_wrong_reference_is_wrong_input(lab: Lab, reference: str) -> None:
    async with lab.node("a") as a:
        with pytest.raises(InvalidInput):
            await a.get(reference)


async def test_something_else_at_the_destination_is_left_alone(lab: Lab, tmp_path: Path) -> None:
    source = lab.file("model.bin", 1000)
    (tmp_path / "copy").write_text("mine")
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(source)
        with pytest.raises(InvalidInput):
            await b.get(shared.ticket, tmp_path / "copy")
        assert (tmp_path / "copy").read_text() == "mine"
        await b.get(shared.ticket, tmp_path / "copy", overwrite=True)
        assert (tmp_path / "copy").read_bytes() == source.read_bytes()


async def test_peers_are_listed_and_pinged(lab: Lab) -> None:
    async with lab.node("a") as a, lab.node("b") as b:
        pong = await b.ping(a.addresses[0], count=2)
        assert (pong.peer, len(pong.round_trips_ms)) == (a.id, 2)
        await b.ping(a.addresses[0], count=1)  # over the same connection
        (row,) = b.peers()
        assert (row.peer, row.inbound) == (a.id, False)
        assert (await b.ping(str(a.id), count=1)).peer == a.id
        assert b.status().connections == 1


async def test_what_is_shared_is_listed_and_verified(lab: Lab) -> None:
    source = lab.file("model.bin", SIZE)
    async with lab.node("a") as a:
        shared = await a.share(source, name="renamed")
        (row,) = a.objects()
        assert (row.cid, row.name, row.path, row.size) == (shared.cid, "renamed", source, SIZE)
        found = await a.verify(shared.cid)
        assert (found.damaged_count, found.checked_bytes >= SIZE) == (0, True)
        data = bytearray(source.read_bytes())
        data[SIZE // 2] ^= 1
        source.write_bytes(data)
        assert (await a.verify(shared.ticket)).damaged_count > 0
        with pytest.raises(NotFound):
            await a.verify(lattica.CID.of(b"else"))


async def test_shares_survive_a_restart(lab: Lab, tmp_path: Path) -> None:
    source = lab.file("model.bin", SIZE)
    async with lab.node("a") as a:
        shared = await a.share(source)
    async with lab.node("a") as a, lab.node("b") as b:
        got = await b.get(shared.cid, tmp_path / "copy", peers=a.addresses)
        assert got.received_bytes == SIZE


async def test_a_home_runs_one_node(lab: Lab) -> None:
    async with lab.node("a"):
        with pytest.raises(InvalidInput, match="runs on"):
            async with lab.node("a"):
                pass


async def test_messages_reach_subscribers(lab: Lab) -> None:
    async with lab.node("a") as a, lab.node("b", a.addresses[0]) as b:
        async with b.subscribe("rounds") as messages:
            with trio.fail_after(10):
                while not await a.broadcast("rounds", b"hello"):
                    await trio.testing.wait_all_tasks_blocked(0.01)
                message = await anext(messages)
        assert (message.data, message.author) == (b"hello", a.id)


async def test_a_swarm_hears_what_its_members_share(lab: Lab, tmp_path: Path) -> None:
    source = lab.file("model.bin", 1000)
    async with lab.node("a") as a, lab.node("b", a.addresses[0]) as b:
        await b.join_swarm("lab")
        await a.join_swarm("lab")
        shared = await a.share(source)
        with trio.fail_after(10):
            while not b.announcements():
                await trio.testing.wait_all_tasks_blocked(0.01)
        (heard,) = b.announcements()
        assert (heard.cid, heard.name, heard.peer) == (shared.cid, "model.bin", a.id)
        (tmp_path / "into").mkdir()
        got = await b.get(shared.cid, tmp_path / "into")
        assert got.path == tmp_path / "into" / "model.bin", "it goes by the announced name"


async def test_the_private_key_is_in_no_log_line(
    lab: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source = lab.file("model.bin", SIZE)
    async with lab.node("meeting") as meeting, lab.node("a", meeting.addresses[0]) as a:
        async with lab.node("b", meeting.addresses[0]) as b:
            shared = await a.share(source)
            await b.get(shared.cid, tmp_path / "copy")
            with pytest.raises(lattica.LatticaError):
                await b.get(lattica.CID.of(b"absent"), tmp_path / "no", timeout=0.2)
    assert caplog.records, "a log that says nothing proves nothing"
    text = "\n".join(
        f"{record.getMessage()} {record.args!r} {record.exc_text or ''}"
        for record in caplog.records
    )
    for home in ("meeting", "a", "b"):
        for form in secret_forms((tmp_path / home / "key").read_bytes()):
            assert form not in text


def secret_forms(key_file: bytes) -> list[str]:
    """The ways in which a private key may find its way into text, whole or its first half."""
    import base64

    seed = key_file[4:36]
    forms = []
    for secret in (seed, key_file):
        forms += [secret.hex(), repr(secret)[2:-1], str(list(secret)), secret.decode("latin-1")]
        forms += [base64.b64encode(secret).decode(), base64.urlsafe_b64encode(secret).decode()]
        forms += [base64.b32encode(secret).decode(), secret.hex(" "), secret.hex(":")]
    return forms


async def test_what_is_here_already_is_copied_without_asking_anybody(
    lab: Lab, tmp_path: Path
) -> None:
    source = lab.safetensors("m.safetensors", 700_000, 300_000)
    async with lab.node("a") as a:
        shared = await a.share(source)
        with trio.fail_after(5):
            got = await a.get(shared.cid, tmp_path / "copy.safetensors")
        assert got.received_bytes == 0
        assert got.path.read_bytes() == source.read_bytes()
        source.unlink()
        with trio.fail_after(5):
            again = await a.get(shared.cid, tmp_path / "again.safetensors")
        assert again.path.read_bytes() == got.path.read_bytes()


@pytest.mark.parametrize("address", ["/ip4/192.0.2.1", "/ip4/192.0.2.1/udp/4001/quic-v1"])
async def test_a_bootstrap_address_that_leads_nowhere_is_refused_at_the_start(
    tmp_path: Path, address: str
) -> None:
    with pytest.raises(InvalidInput, match="bootstrap") as caught:
        async with lattica.open_node(
            tmp_path / "home", listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=[address], mdns=False
        ):
            pass
    assert "/tcp/" in caught.value.hint
