"""``make demo``: fine-tune teachers with object storage, on one machine without a GPU.

Starts an S3 server, uploads a small dataset and the tiny base teachers, runs the manifests in this folder with
``teacher run``, and fetches the published runs, since the server keeps its data in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
DATASETS = {"boxes": "parts-boxes", "masks": "parts-masks", "both": "parts"}


@contextmanager
def s3_server() -> Iterator[str]:
    """Start an S3 server on a free local port and yield its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(url, timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline or server.poll() is not None:
                    sys.exit("the S3 server did not start")
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait()


def teacher(*arguments: str) -> str:
    """Run the ``teacher`` command and return its standard output."""
    print("$ teacher", *arguments, flush=True)
    done = subprocess.run([str(BIN / "teacher"), *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return done.stdout


def upload(folder: Path) -> None:
    """Create the datasets and upload them, with the tiny teachers, to the bucket."""
    import boto3

    from engine.storage import Storage, StorageOptions

    boto3.client("s3").create_bucket(Bucket="demo")
    storage = Storage(StorageOptions())
    for kind, name in DATASETS.items():
        command = [sys.executable, str(EXAMPLES / "demo_data.py"), str(folder / name), "--kind", kind]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        storage.upload_folder(folder / name, f"s3://demo/{name}/")
    for name in ("grounding_dino", "sam"):
        storage.upload_folder(EXAMPLES / "tiny_teachers" / name, f"s3://demo/tiny_teachers/{name}/")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder for the fetched results")
    parser.add_argument("--only", choices=DATASETS, action="append", help="run only this manifest")
    arguments = parser.parse_args()
    started = time.monotonic()
    shutil.rmtree(arguments.output, ignore_errors=True)
    rows = []
    with s3_server() as url:
        os.environ.update(
            AWS_ENDPOINT_URL=url, AWS_ACCESS_KEY_ID="demo", AWS_SECRET_ACCESS_KEY="demo", AWS_DEFAULT_REGION="us-east-1"
        )
        upload(arguments.output / "data")
        for kind in arguments.only or DATASETS:
            run_uri = teacher("run", "-f", str(EXAMPLES / f"{kind}.yaml")).strip().splitlines()[-1]
            fetched = arguments.output / kind
            teacher("fetch", run_uri, str(fetched))
            metrics = json.loads((fetched / "metrics.json").read_text())
            rows += [(kind, result, fetched) for result in metrics["teachers"]]
    print(f"\n{'':24}{'AP50':^18}{'mAP':^18}{'zero-shot':>10}")
    print(
        f"{'data':8}{'teacher':16}{'before':>9}{'after':>9}{'before':>9}{'after':>9}{'kept':>10}   adapter and report"
    )
    for kind, result, fetched in rows:
        before, after = result["before"], result["after"]
        values = "".join(f"{one[name]:9.3f}" for name in ("ap50", "ap") for one in (before, after))
        share = result["retention"]["share"] if result["retention"] else -1
        kept = f"{share:.0%}" if share >= 0 else "-"
        print(f"{kind:8}{result['teacher']:16}{values}{kept:>10}   {result['adapter']['uri']}")
        print(f"{'':73}{fetched / 'teachers'}, {fetched / 'report.html'}")
    print(f"\nmeasured on images held out from training; {time.monotonic() - started:.0f} s")
    worse = [f"{kind} {r['teacher']}" for kind, r, _ in rows if not r["improved"]]
    if worse:
        sys.exit(f"not better than its base: {', '.join(worse)}")


if __name__ == "__main__":
    main()
