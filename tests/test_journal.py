"""The journal: what was appended comes back, and after any damage exactly what is still whole."""

import errno
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path
from zlib import crc32

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import BadInput, SourceFailed
from engine.record import journal
from engine.record.journal import JournalReader, JournalWriter, Origin, recording_folder, recordings, repair
from engine.record.segment import CONTROL, FRAME, HEADER_BYTES, SOURCES, TIMER, Frame, Header, pack_frame, pack_header

T0 = 1_723_161_600_000_000_000
ORIGINS = [Origin("public", "binance_usdm", "public", "wss://one/stream"), Origin("market", "binance_usdm", "market")]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Let no test wait for the disk but those that are about it; whether a sync is durable no test can see."""
    if "real_sync" not in request.fixturenames:
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def real_sync() -> None:
    """Ask for the system's own sync."""


def writer(folder: Path, **options) -> JournalWriter:
    """Return a writer that touches the disk only when told to, unless asked otherwise."""
    defaults = dict(sync_interval_ms=10_000, disk_reserve_bytes=0, sources=ORIGINS)
    return JournalWriter(folder, "s1", **{**defaults, **options})


def payload(number: int) -> bytes:
    return f'{{"n":{number},"text":"{"x" * (number * 7 % 23)}"}}'.encode()


def record(folder: Path, count: int = 8, **options) -> list[Frame]:
    """Write a little journal and return its frames."""
    with writer(folder, **options) as out:
        for n in range(1, count + 1):
            out.append(n % 2, TIMER if n % 5 == 0 else FRAME, b"" if n % 5 == 0 else payload(n), T0 + n * 1_000)
    return [Frame(n, T0 + n * 1_000, n % 2, TIMER if n % 5 == 0 else FRAME, 0, b"" if n % 5 == 0 else payload(n))
            for n in range(1, count + 1)]


def poke(path: Path, at: int, value: int) -> None:
    """Change one byte of a file where it lies; writing the file anew is many times slower."""
    with open(path, "r+b", buffering=0) as file:
        file.seek(at)
        file.write(bytes([value]))


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "journal").glob("*.seg"))


def naive(data: bytes) -> list[tuple[int, int, tuple]]:
    """Read an undamaged segment the plain way: begin and end of each frame, and the frame."""
    found, at = [], HEADER_BYTES
    while at < len(data):
        size, checksum, *key = struct.unpack_from("<IIqqHBB", data, at)
        body = data[at + 28:at + 28 + size]
        assert crc32(data[at + 8:at + 28 + size], size) == checksum and len(body) == size
        found.append((at, at + 28 + size, (*key, body)))
        at += 28 + size
    return found


frames_given = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([FRAME, CONTROL, TIMER]), st.binary(max_size=300),
                                  st.integers(0, 60), st.integers(0, 255)), max_size=40)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_frames=frames_given, segment_bytes=st.integers(200, 4_000))
def test_what_was_appended_comes_back(tmp_path_factory, given_frames, segment_bytes):
    folder = tmp_path_factory.mktemp("j") / "rec"
    expected, last_ns, bumped = [], 0, 0
    with writer(folder, segment_bytes=segment_bytes) as out:
        for number, (source, kind, body, at, flags) in enumerate(given_frames, 1):
            assert out.append(source, kind, body, T0 + at, flags) == number
            bumped += T0 + at <= last_ns
            last_ns = max(T0 + at, last_ns + 1)
            expected.append(Frame(number, last_ns, source, kind, flags, body))
        assert out.bumped == bumped
    reader = JournalReader(folder)
    assert list(reader) == expected
    assert reader.damage == [] and reader.sources == ORIGINS and reader.frames == len(expected)
    assert (out.acknowledged_seq, out.synced_seq) == (len(expected),) * 2


def test_bytes_are_as_the_format_says(tmp_path):
    expected = record(tmp_path / "rec")
    data = segments(tmp_path / "rec")[0].read_bytes()
    assert data[:8] == b"TGJRNL\r\n" and struct.unpack_from("<HHIq", data, 8) == (1, 2, 1, 1)
    (_, _, table), *rest = naive(data)
    assert table[:4] == (0, 0, 0, SOURCES) and b'"name":"public"' in table[-1]
    assert [frame for _, _, frame in rest] == [tuple(f) for f in expected]


def test_cut_at_every_byte_leaves_the_longest_valid_prefix(tmp_path):
    folder = tmp_path / "rec"
    expected = record(folder)
    path = segments(folder)[0]
    data = path.read_bytes()
    ends = [end for _, end, _ in naive(data)][1:]
    for size in range(len(data), -1, -1):
        os.truncate(path, size)
        whole = sum(end <= size for end in ends)
        reader = JournalReader(folder)
        assert list(reader) == expected[:whole], size
        assert bool(reader.damage) == (size not in (0, HEADER_BYTES, naive(data)[0][1], *ends)), size


def test_repair_cuts_a_torn_end_and_says_so(tmp_path):
    folder = tmp_path / "rec"
    expected = record(folder)
    path = segments(folder)[0]
    data = path.read_bytes()
    ends = [HEADER_BYTES] + [end for _, end, _ in naive(data)]
    for size in range(len(data)):
        path.write_bytes(data[:size])
        report = repair(folder)
        keep = max((end for end in ends if end <= size), default=0)
        whole = sum(end <= size for end in ends[2:])
        assert report["last_seq"] == whole and report["cut_bytes"] == size - keep
        if size == keep and size:
            assert report["said"] == []
        elif keep:
            assert f"the last {size - keep} bytes, after seq {whole}," in report["said"][0]
            assert path.read_bytes() == data[:keep]
            assert path.with_name(f"{path.stem}.{keep}.cut").read_bytes() == data[keep:size]
        else:
            assert "held no whole frame" in report["said"][0] and not path.exists()
        reader = JournalReader(folder)
        assert list(reader) == expected[:whole] and reader.damage == []
        assert repair(folder)["said"] == []
        for cut in path.parent.glob("*.cut"):
            cut.unlink()


def test_any_flipped_bit_leaves_the_frames_before_it(tmp_path):
    folder = tmp_path / "rec"
    expected = record(folder)
    path = segments(folder)[0]
    data = path.read_bytes()
    spans = naive(data)
    for bit in range(len(data) * 8):
        at = bit // 8
        if at:
            poke(path, at - 1, data[at - 1])
        poke(path, at, data[at] ^ 1 << bit % 8)
        reader = JournalReader(folder)
        if at < HEADER_BYTES:                  # frames say themselves what they are; a lost head costs none
            assert list(reader) == expected and reader.damage[0].last_seq == reader.damage[0].first_seq - 1
            continue
        begin = max(b for b, _, _ in spans if b <= at)
        assert list(reader) == expected[:sum(end <= at for _, end, _ in spans[1:])], bit
        assert [(d.offset, d.bytes, d.last_seq) for d in reader.damage] == [(begin, len(data) - begin, None)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), drop=st.booleans())
def test_damage_in_an_earlier_segment_costs_that_segment_only(tmp_path_factory, where, bit, drop):
    folder = tmp_path_factory.mktemp("j") / "rec"
    expected = record(folder, 40, segment_bytes=700)
    paths = segments(folder)
    assert len(paths) >= 4
    sizes = [path.stat().st_size for path in paths[:-1]]
    at = int(where * sum(sizes))
    number = next(i for i in range(len(sizes)) if at < sum(sizes[:i + 1]))
    at -= sum(sizes[:number])
    data = bytearray(paths[number].read_bytes())
    spans = naive(bytes(data))
    own = {frame[0] for _, _, frame in spans[1:]}
    if drop:
        paths[number].unlink()
        lost = own
    else:
        data[at] ^= 1 << bit
        paths[number].write_bytes(data)
        kept = {frame[0] for _, end, frame in spans[1:] if end <= at}
        lost = set() if at < HEADER_BYTES else own - kept
    reader = JournalReader(folder)
    assert list(reader) == [f for f in expected if f.seq not in lost]
    told = [(d.first_seq, d.last_seq) for d in reader.damage if d.last_seq >= d.first_seq]
    assert told == ([(min(lost), max(lost))] if lost else [])
    assert len(reader.damage) == 1 and reader.damage[0].sentence()


def test_damaged_segment_then_damaged_head(tmp_path):
    folder = tmp_path / "rec"
    expected = record(folder, 40, segment_bytes=700)
    first, second, third = segments(folder)[:3]
    spans = naive(first.read_bytes())
    first.write_bytes(first.read_bytes()[:spans[2][0] + 5])
    second.write_bytes(b"\0" * 40 + second.read_bytes()[40:])
    third_first = naive(third.read_bytes())[1][2][0]
    second_first = naive(second.read_bytes())[1][2][0]
    reader = JournalReader(folder)
    assert [f.seq for f in reader] == [1, *range(second_first, 41)]
    assert [(d.first_seq, d.last_seq) for d in reader.damage] == [(2, second_first - 1), (third_first, third_first - 1)]
    assert expected[-1].seq == 40


@pytest.mark.parametrize("seq, recv_ns", [(8, T0 + 9_000), (10, T0 + 9_000), (9, T0 + 8_000), (1, T0 + 1_000)])
def test_a_sound_frame_out_of_its_order_is_not_valid(tmp_path, seq, recv_ns):
    expected = record(tmp_path / "rec")
    with open(segments(tmp_path / "rec")[0], "ab") as file:
        file.write(pack_frame(Frame(seq, recv_ns, 0, FRAME, 0, b"again")))
    reader = JournalReader(tmp_path / "rec")
    assert list(reader) == expected and len(reader.damage) == 1
    assert repair(tmp_path / "rec")["last_seq"] == 8


def test_a_segment_of_another_recording_is_passed_over(tmp_path):
    expected = record(tmp_path / "one", 40, segment_bytes=700)
    head = Header(1, "other", 2, 1, T0)
    path = segments(tmp_path / "one")[1]
    own = {frame[0] for _, _, frame in naive(path.read_bytes())[1:]}
    path.write_bytes(pack_header(head) + pack_frame(Frame(1, T0, 0, FRAME, 0, b"stranger")))
    reader = JournalReader(tmp_path / "one")
    assert list(reader) == [f for f in expected if f.seq not in own]
    assert "other" in reader.damage[0].reason


def test_a_later_format_is_refused(tmp_path):
    folder = tmp_path / "rec" / "journal"
    folder.mkdir(parents=True)
    (folder / "000001.seg").write_bytes(pack_header(Header(2, "s1", 1, 1, T0)))
    with pytest.raises(BadInput, match="has format 2; this version reads 1"):
        list(JournalReader(folder.parent))
    with pytest.raises(BadInput, match="not a recording"):
        JournalReader(tmp_path / "nothing")


def test_segments_turn_by_size_and_by_time(tmp_path):
    with writer(tmp_path / "size", segment_bytes=1_000) as out:
        for n in range(50):
            out.append(0, FRAME, b"y" * 100, T0 + n)
    sizes = [path.stat().st_size for path in segments(tmp_path / "size")]
    assert len(sizes) > 5 and all(1_000 <= size < 1_128 for size in sizes[:-1])
    with writer(tmp_path / "time", segment_seconds=60) as out:
        for n in range(10):
            out.append(0, TIMER, b"", T0 + n * 20_000_000_000)
    firsts = [naive(path.read_bytes())[1][2][0] for path in segments(tmp_path / "time")]
    assert firsts == [1, 4, 7, 10]
    assert [path.name for path in segments(tmp_path / "time")] == [f"{n:06d}.seg" for n in range(1, 5)]
    assert [f.seq for f in JournalReader(tmp_path / "time")] == list(range(1, 11))


def test_a_source_added_later_is_known_in_every_segment(tmp_path):
    with writer(tmp_path / "rec", segment_bytes=600) as out:
        out.append(0, FRAME, b"a", T0)
        assert out.source(Origin("rest", "binance_usdm", "rest", "https://x")) == 2
        for n in range(20):
            out.append(2, FRAME, b"b" * 60, T0 + n)
    for path in segments(tmp_path / "rec"):
        alone = tmp_path / path.stem
        alone.mkdir()
        shutil.copy(path, alone)
        reader = JournalReader(alone)
        list(reader)
        assert [o.name for o in reader.sources] == ["public", "market", "rest"]


def test_acknowledged_is_written_and_synced_is_on_disk(tmp_path, real_sync):
    with writer(tmp_path / "rec") as out:
        for n in range(5):
            out.append(0, FRAME, b"z", T0 + n)
        assert (out.acknowledged_seq, out.synced_seq, list(JournalReader(tmp_path / "rec"))) == (0, 0, [])
        assert out.flush() == 5 == out.acknowledged_seq and out.synced_seq == 0
        assert len(list(JournalReader(tmp_path / "rec"))) == 5
        assert out.sync() == 5 == out.synced_seq
        for n in range(5_000):
            out.append(0, FRAME, b"z" * 100, T0 + n)
        assert 5 < out.acknowledged_seq < 5_005, "a full buffer is written before anybody asks"


def test_sync_happens_unasked(tmp_path, real_sync):
    with writer(tmp_path / "rec", sync_interval_ms=5) as out:
        out.append(0, FRAME, b"z", T0)
        deadline = time.monotonic() + 20
        while out.synced_seq < 1 and time.monotonic() < deadline:
            time.sleep(0.002)
        assert out.synced_seq == out.acknowledged_seq == 1
    with writer(tmp_path / "each", sync_interval_ms=0) as out:
        out.append(0, FRAME, b"z", T0)
        assert out.synced_seq == 1


def test_appending_while_another_thread_syncs(tmp_path, real_sync):
    with writer(tmp_path / "rec", sync_interval_ms=1, segment_bytes=20_000) as out:
        for n in range(20_000):
            out.append(0, FRAME, payload(n), T0 + n)
    assert [f.payload for f in JournalReader(tmp_path / "rec")] == [payload(n) for n in range(20_000)]
    assert not [t for t in threading.enumerate() if t.daemon and "_keep_syncing" in t.name]


def test_full_disk_at_the_start_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(journal.shutil, "disk_usage", lambda path: Usage(10, 9, 1_000_000))
    with pytest.raises(SourceFailed, match=r"1 MB of the disk are free, 5 MB are kept.*nothing was recorded"):
        writer(tmp_path / "rec", disk_reserve_bytes=5_000_000)
    assert segments(tmp_path / "rec") == []
    monkeypatch.undo()
    writer(tmp_path / "rec").close()


@pytest.mark.parametrize("where", ["turn", "bytes", "thread"])
def test_disk_budget_stops_the_recording_with_every_frame_kept(tmp_path, monkeypatch, where):
    free = [10_000_000]
    monkeypatch.setattr(journal.shutil, "disk_usage", lambda path: Usage(10, 9, free[0]))
    monkeypatch.setattr(journal, "BUDGET_BYTES", 1_000 if where != "turn" else 1 << 40)
    out = writer(tmp_path / "rec", disk_reserve_bytes=5_000_000, sync_interval_ms=1 if where == "thread" else 10_000,
                 segment_bytes=5_000 if where == "turn" else 1 << 30)
    seqs = []
    with pytest.raises(SourceFailed, match="MB are kept in reserve; free some space") as raised:
        for n in range(1_000_000):
            if n == 300:
                free[0] = 4_000_000
            seqs.append(out.append(0, FRAME, payload(n), T0 + n))
            if where == "bytes":
                out.flush()
    with pytest.raises(SourceFailed) as again:
        out.append(0, FRAME, b"", T0)
    assert str(again.value) == str(raised.value) and len(seqs) >= 300
    assert f"ended after seq {out.acknowledged_seq}" in str(raised.value)
    out.close()
    reader = JournalReader(tmp_path / "rec")
    assert [f.seq for f in reader] == list(range(1, out.acknowledged_seq + 1)) and reader.damage == []
    assert out.synced_seq == out.acknowledged_seq and repair(tmp_path / "rec")["said"] == []


class Failing:
    """A file that takes some bytes and then fails."""

    def __init__(self, file, room: int, error: BaseException, cut_too: bool = False):
        self.file, self.room, self.error, self.cut_too = file, room, error, cut_too

    def write(self, data) -> int:
        if self.room <= 0:
            raise self.error
        done = self.file.write(bytes(data[:min(self.room, 700)]))
        self.room -= done
        return done

    def truncate(self, size: int) -> int:
        if self.cut_too:
            raise OSError(errno.EIO, "Input/output error")
        return self.file.truncate(size)

    def __getattr__(self, name: str):
        return getattr(self.file, name)


@pytest.mark.parametrize("cut_too", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails_half_way_is_reported_and_leaves_nothing_torn(tmp_path, code, cut_too):
    out = writer(tmp_path / "rec")
    for n in range(10):
        out.append(0, FRAME, payload(n), T0 + n)
    out.flush()
    for n in range(10, 300):
        out.append(0, FRAME, payload(n), T0 + n)
    out._file = Failing(out._file, 1_500, OSError(code, os.strerror(code)), cut_too)
    with pytest.raises(SourceFailed, match=f"{os.strerror(code)}.*ended after seq 10; seq 11 to 300 were not kept"):
        out.flush()
    out.close()
    reader = JournalReader(tmp_path / "rec")
    read = [f.seq for f in reader]
    if not cut_too:
        assert read == list(range(1, 11)) and reader.damage == []
    else:                                      # whole frames beyond the promise may be there; the torn one is cut
        assert read[:10] == list(range(1, 11)) and len(repair(tmp_path / "rec")["said"]) == 1


def test_an_interrupt_while_writing_doubles_nothing(tmp_path):
    out = writer(tmp_path / "rec")
    for n in range(100):
        out.append(0, FRAME, payload(n), T0 + n)
    real = out._file
    out._file = Failing(real, 900, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        out.flush()
    out._file = real
    out.append(0, FRAME, payload(100), T0 + 100)
    out.close()
    reader = JournalReader(tmp_path / "rec")
    assert [f.payload for f in reader] == [payload(n) for n in range(101)] and reader.damage == []


def test_a_sync_that_fails_in_the_thread_reaches_the_owner(tmp_path, monkeypatch):
    out = writer(tmp_path / "rec", sync_interval_ms=1)

    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr(journal.os, "fsync", refuse)
    out.append(0, FRAME, b"a", T0)
    out._thread.join(20)
    with pytest.raises(SourceFailed, match="could not be made durable .Input/output error.; .* after seq 1"):
        out.append(0, FRAME, b"b", T0)
    out.close()
    monkeypatch.undo()
    other = writer(tmp_path / "two", sync_interval_ms=1)
    monkeypatch.setattr(journal.os, "fsync", refuse)
    other.append(0, FRAME, b"a", T0)
    other._thread.join(20)
    with pytest.raises(SourceFailed, match="could not be made durable"):
        other.close()


@pytest.mark.parametrize("thread", [True, False])
def test_no_descriptor_left_for_a_sync_ends_the_recording_in_a_sentence(tmp_path, thread):
    resource = pytest.importorskip("resource")
    out = writer(tmp_path / "rec", sync_interval_ms=1 if thread else 10_000)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        out.append(0, FRAME, b"a", T0)
        if thread:
            out._thread.join(20)
        with pytest.raises(SourceFailed, match="could not be made durable .Too many open files.; .* after seq 1"):
            out.append(0, FRAME, b"b", T0) if thread else out.sync()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    out.close()
    assert [f.seq for f in JournalReader(tmp_path / "rec")] == [1]


@pytest.mark.parametrize("thread", [True, False])
def test_a_disk_that_does_not_tell_its_room_ends_the_recording_in_a_sentence(tmp_path, monkeypatch, thread):
    monkeypatch.setattr(journal, "BUDGET_BYTES", 1_000)
    out = writer(tmp_path / "rec", sync_interval_ms=1 if thread else 10_000)
    shutil.rmtree(tmp_path / "rec" / "journal")
    out.append(0, FRAME, b"a" * 2_000, T0)
    if thread:
        out._thread.join(20)
    with pytest.raises(SourceFailed, match="does not tell how much of the disk is free .No such file or directory.; .* after seq 1"):
        out.append(0, FRAME, b"b", T0) if thread else out.flush()
    out.close()


def test_a_real_full_disk(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if sys.platform != "linux" or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)],
                                                 capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        out = writer(small / "rec", segment_bytes=300_000)
        with pytest.raises(SourceFailed, match="No space left on device.*ended after seq"):
            for n in range(100_000):
                out.append(0, FRAME, b"q" * 500, T0 + n)
        out.close()
        reader = JournalReader(small / "rec")
        assert [f.seq for f in reader] == list(range(1, out.acknowledged_seq + 1)) and out.acknowledged_seq > 1_000
        assert reader.damage == [] and repair(small / "rec")["last_seq"] == out.acknowledged_seq
        with pytest.raises(SourceFailed, match="reserve"):
            writer(small / "other", disk_reserve_bytes=500_000)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_recording_in_use_is_left_alone(tmp_path):
    folder = tmp_path / "rec"
    out = writer(folder)
    out.append(0, FRAME, b"a", T0)
    for act in (lambda: repair(folder), lambda: writer(folder)):
        with pytest.raises(BadInput, match="in use by another process"):
            act()
    out.close()
    assert repair(folder)["last_seq"] == 1
    with pytest.raises(BadInput, match="holds a journal already"):
        writer(folder)


def test_names_and_sizes_that_cannot_be(tmp_path):
    for name in ("", "../x", "a b", ".hidden", "x" * 101):
        with pytest.raises(BadInput, match="will not do as a folder name"):
            JournalWriter(tmp_path / "rec", name)
    (tmp_path / "sessions" / "done").mkdir(parents=True)
    with pytest.raises(BadInput, match="session done already exists"):
        JournalWriter(recording_folder(tmp_path, "done"), "done", disk_reserve_bytes=0)
    with writer(tmp_path / "rec") as out:
        with pytest.raises(BadInput, match="is more than the"):
            out.append(0, FRAME, bytes((1 << 28) + 1), T0)
        assert out.append(0, FRAME, b"", T0) == 1


def test_recordings_left_behind_are_found(tmp_path):
    assert recordings(tmp_path) == []
    for name in ("b", "a"):
        JournalWriter(recording_folder(tmp_path, name), name, disk_reserve_bytes=0).close()
    (tmp_path / "sessions" / ".recording-empty").mkdir()
    assert recordings(tmp_path) == [recording_folder(tmp_path, "a"), recording_folder(tmp_path, "b")]


def test_packed_segments_read_the_same(tmp_path):
    expected = record(tmp_path / "rec", 40, segment_bytes=700)
    for path in segments(tmp_path / "rec")[::2]:
        path.with_name(path.name + ".zst").write_bytes(pa.Codec("zstd").compress(path.read_bytes(), asbytes=True))
        path.unlink()
    reader = JournalReader(tmp_path / "rec" / "journal")
    assert list(reader) == expected and reader.damage == []
