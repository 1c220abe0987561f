"""The child of the kill tests: records frames of known content, or converts a recording, until it is killed.

`python kill_recorder.py serve` reads one job a line from standard input, as JSON, and forks for each, so that a job
starts in a millisecond; `python kill_recorder.py JOB` does one job and is for systems without fork.
"""

import json
import os
import random
import signal
import sys

from engine.record.convert import convert
from engine.record.journal import JournalWriter, Origin, recording_folder
from engine.record.segment import FRAME, TIMER

T0_NS = 1_723_161_600_000_000_000
STEP_NS = 1_000_000
FILE_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}


def content(number: int) -> bytes | None:
    """Return the payload of a frame by its seq, None where it is a timer."""
    if number % 10 == 0:
        return None
    price, qty = f"{60_000 + number % 2_000}.{number % 10}0", f"{number % 997 + 1}.{number % 1000:03d}"
    pad = "x" * (number * 31 % 400)
    return (f'{{"stream":"btcusdt@trade","data":{{"e":"trade","E":1723161600001,"T":1723161600001,"s":"BTCUSDT",'
            f'"t":{number},"p":"{price}","q":"{qty}","X":"MARKET","m":true,"pad":"{pad}"}}}}'
            ).encode()


def say(text: str) -> None:
    """Print a line that a kill cannot tear."""
    os.write(1, f"{text}\n".encode())


def record(job: dict) -> None:
    """Append frames for ever, saying after each flush which seq the journal has acknowledged."""
    rng = random.Random(job["seed"])
    folder = recording_folder(job["data"], job["name"])
    options = dict(sync_interval_ms=rng.choice([1, 5, 50]), segment_bytes=rng.choice([20_000, 100_000, 1 << 26]))
    origin = Origin("a", "binance_usdm")
    with JournalWriter(folder, job["name"], disk_reserve_bytes=0, sources=[origin], **options) as out:
        number = 0
        while True:
            for _ in range(rng.choice([1, 3, 50, 400])):
                number += 1
                payload = content(number)
                kind = TIMER if payload is None else FRAME
                out.append(0, kind, payload or b"", T0_NS + number * STEP_NS)
            say(f"ack {out.flush()}")


def convert_job(job: dict) -> None:
    """Convert, and end like a kill before the n-th thing done to a file of the data root, where n is given."""
    left = job.get("at", 0)

    def count(event: str, args: tuple) -> None:
        nonlocal left
        named = event in FILE_EVENTS and isinstance(args[0], str | os.PathLike)
        if left and named and str(args[0]).startswith(job["data"]):
            left -= 1
            if not left:
                os._exit(9)
    if left:
        os.fsync = lambda descriptor: None     # a kill is no power loss, and many are waited for
        sys.addaudithook(count)
    convert(recording_folder(job["data"], job["name"]), job["data"], keep=job.get("keep", "drop"))
    say("converted")


def work(job: dict) -> None:
    """Do one job."""
    (record if job["do"] == "record" else convert_job)(job)


def serve() -> None:
    """Fork for each job, say its process id, wait for it, and say how it ended."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            code = 1
            try:
                work(json.loads(line))
                code = 0
            finally:
                os._exit(code)
        say(f"pid {child}")
        say(f"ended {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        say(f"pid {os.getpid()}")
        work(json.loads(sys.argv[1]))
