"""Measure the download of many small images from S3, compared with boto3 in 16 threads, and the memory for a million.

python benchmarks/sync_speed.py --objects 2000 --repeats 5 --listed 1000000 --fetched 10000

Both list the folder, then fetch it: ``ImageFolder.sync`` with checksums, retries and atomic files; boto3 with
``get_object`` and ``write_bytes``. They alternate, and the best of each counts. The server is a separate process on the
same cores, benchmarks/fake_s3.py, which needs little CPU. Files are written to memory, which compares the clients, and
to the disk, which can be slower than they are.

Memory is measured in a process that lists ``--listed`` images of 100 bytes and fetches ``--fetched`` of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from measurements import Measurement, report

HERE = Path(__file__).resolve().parent
THREADS = 16
LEAST, MOST = 10_000, 100_000
MEMORY_DISK = "/dev/shm" if Path("/dev/shm").is_dir() else None
KEYS = {
    "AWS_ACCESS_KEY_ID": "any",
    "AWS_SECRET_ACCESS_KEY": "any",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@contextmanager
def small_server(objects: int, *size: int) -> Iterator[str]:
    command = [sys.executable, str(HERE / "fake_s3.py"), "--objects", str(objects), "--bytes", *map(str, size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def by_boto3(url: str) -> Callable[[Path], None]:
    import boto3
    from botocore.config import Config

    client = boto3.client("s3", endpoint_url=url, config=Config(max_pool_connections=THREADS))

    def bring(folder: Path) -> None:
        def fetch(key: str) -> None:
            (folder / key.rpartition("/")[2]).write_bytes(client.get_object(Bucket="bucket", Key=key)["Body"].read())

        pages = client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix="images/")
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(fetch, [item["Key"] for page in pages for item in page["Contents"]]))

    return bring


def by_sync(url: str) -> Callable[[Path], None]:
    from engine.dataset import CocoImage, ImageFolder
    from engine.storage import Storage, StorageOptions

    storage = Storage(StorageOptions(endpoint_url=url))

    def bring(folder: Path) -> None:
        images = ImageFolder("s3://bucket/images/", storage=storage, cache=folder)
        images.sync([CocoImage(n, key, 0, 0) for n, key in enumerate(sorted(images.names.keys))])

    return bring


def measured(url: str, folder: Path, repeats: int) -> dict[str, tuple[float, float]]:
    """Measure the best wall-clock and CPU seconds of each client."""
    works = {"boto3": by_boto3(url), "sync": by_sync(url)}
    best = dict.fromkeys(works, (1e9, 1e9))
    for _ in range(repeats):
        for name, work in works.items():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            start, cpu = time.perf_counter(), time.process_time()
            work(folder)
            spent = time.perf_counter() - start, time.process_time() - cpu
            best[name] = min(best[name][0], spent[0]), min(best[name][1], spent[1])
            print(f"{name:6} {spent[0]:6.2f} s, {spent[1]:6.2f} s of CPU", flush=True)
    return best


def speed(server: str, best: dict[str, tuple[float, float]], *, aim: str) -> list[Measurement]:
    (theirs, their_cpu), (ours, our_cpu) = best["boto3"], best["sync"]
    what, against = f"sync of small images from {server}", f"boto3, {THREADS} threads"
    return [
        Measurement(what, against, ours, theirs, "s", theirs / ours, aim),
        Measurement(f"{what}, CPU of the client", against, our_cpu, their_cpu, "s", their_cpu / our_cpu),
    ]


MEMORY = """
import json, resource, sys
from contextlib import closing
from itertools import islice
from pathlib import Path
from engine.dataset import CocoImage, ImageFolder
from engine.storage import Storage, StorageOptions

def now():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

url, cache, fetched = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
images = ImageFolder("s3://bucket/images/", storage=Storage(StorageOptions(endpoint_url=url)), cache=cache)
keys = images.names.keys
listed = now()
dataset = [CocoImage(n, key, 0, 0) for n, key in enumerate(keys)]
known = now()
with closing(images.bring(dataset)) as brought:
    print(sum(1 for _ in islice(brought, fetched)), "fetched", file=sys.stderr)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
print(json.dumps({"listed": listed, "records": known - listed, "fetched": now() - known, "peak": peak}))
"""


def memory(listed: int, fetched: int, folder: Path) -> dict[str, float]:
    """Measure the megabytes after listing, added by dataset records, added by fetching, and the peak."""
    with small_server(listed, 100, 100) as url:
        command = [sys.executable, "-c", MEMORY, url, str(folder), str(fetched)]
        start = time.perf_counter()
        found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print(f"{listed:,} listed, {fetched:,} fetched: {found} MB, {time.perf_counter() - start:.0f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--listed", type=int, default=100_000, help="number of listed images; 0: do not measure memory")
    parser.add_argument("--fetched", type=int, default=2000)
    given = parser.parse_args()
    os.environ.update(KEYS)
    figures: list[Measurement] = []
    with TemporaryDirectory() as temporary, TemporaryDirectory(dir=MEMORY_DISK) as fast:
        disk, memory_disk = Path(temporary, "images"), Path(fast, "images")
        with small_server(given.objects, LEAST, MOST) as url:
            figures += speed("a fast server to memory", measured(url, memory_disk, given.repeats), aim=">= 0.7")
            figures += speed("a fast server to the disk", measured(url, disk, given.repeats), aim="")
        if given.listed:
            found, few = (memory(n, given.fetched, Path(temporary, str(n))) for n in (given.listed, given.fetched))
            what, note = (
                f"memory of listing {given.listed:,} images",
                f"{found['records']:.0f} MB more for their records",
            )
            figures += [
                Measurement(
                    what,
                    f"{given.fetched:,}",
                    found["listed"],
                    few["listed"],
                    "MB",
                    found["listed"] / few["listed"],
                    note=note,
                ),
                Measurement(
                    f"memory of fetching {given.fetched:,} of {given.listed:,} images",
                    f"of {given.fetched:,}",
                    found["fetched"],
                    few["fetched"],
                    "MB",
                    found["fetched"] - few["fetched"],
                ),
            ]
    report(figures)


if __name__ == "__main__":
    main()
