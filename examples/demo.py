"""``make demo``: from labelled images to a small model for a device, with object storage, without a GPU.

Starts an S3 server, uploads a small dataset and tiny base models, and fine-tunes two teachers by ``both.yaml``. These
label further images, from which a student learns; it is exported to ONNX and 8-bit OpenVINO. The published runs are
fetched, since the server keeps its data in memory.
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
BASES = ("grounding_dino", "sam", "dfine")
UNLABELLED = 120
STUDENT_EPOCHS = 8


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


def draw(folder: Path, *arguments: str) -> None:
    """Draw a dataset into a folder."""
    command = [sys.executable, str(EXAMPLES / "demo_data.py"), str(folder), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def upload(folder: Path) -> None:
    """Create the datasets and upload them, with the tiny bases, to the bucket."""
    import boto3

    from engine.storage import Storage, StorageOptions

    boto3.client("s3").create_bucket(Bucket="demo")
    storage = Storage(StorageOptions())
    for kind, name in DATASETS.items():
        draw(folder / name, "--kind", kind)
        storage.upload_folder(folder / name, f"s3://demo/{name}/")
    draw(folder / "unlabelled", "--images", str(UNLABELLED), "--seed", "1")
    storage.upload_folder(folder / "unlabelled" / "images", "s3://demo/unlabelled/")
    for name in BASES:
        storage.upload_folder(EXAMPLES / "tiny_teachers" / name, f"s3://demo/tiny_teachers/{name}/")


def fine_tune(kind: str, output: Path) -> str:
    """Run a manifest, fetch what it published, print AP before and after, and return the URI of the run."""
    run_uri = teacher("run", "-f", str(EXAMPLES / f"{kind}.yaml")).strip().splitlines()[-1]
    teacher("fetch", run_uri, str(output))
    results = json.loads((output / "metrics.json").read_text())["teachers"]
    print(f"\n{'':16}{'AP50':^18}{'AP':^18}{'zero-shot':>10}")
    print(f"{'teacher':16}{'before':>9}{'after':>9}{'before':>9}{'after':>9}{'kept':>10}   adapter")
    for result in results:
        before, after = result["before"], result["after"]
        values = "".join(f"{one[name]:9.3f}" for name in ("ap50", "ap") for one in (before, after))
        kept = f"{result['retention']['share']:.0%}" if result["retention"] else "-"
        print(f"{result['teacher']:16}{values}{kept:>10}   {result['adapter']['uri']}")
    print(f"report: {output / 'report.html'}\n")
    if worse := [one["teacher"] for one in results if not one["improved"]]:
        sys.exit(f"not better than its base: {', '.join(worse)}")
    return run_uri


def distill(teacher_uri: str, output: Path) -> None:
    """Train a student with labels of the teachers, export it, and print what was measured."""
    arguments = ["--data", "s3://demo/parts/annotations.json", "--images", "s3://demo/parts/images/"]
    arguments += ["--teacher", teacher_uri, "--unlabelled", "s3://demo/unlabelled/", "--no-masks"]
    arguments += ["--base-model", "s3://demo/tiny_teachers/dfine/", "--epochs", str(STUDENT_EPOCHS), "--name", "edge"]
    arguments += ["--format", "onnx", "--format", "openvino-int8", "--output", "s3://demo/edge/"]
    run_uri = teacher("distill", *arguments).strip().splitlines()[-1]
    teacher("fetch", run_uri, str(output))
    metadata = json.loads((output / "metadata.json").read_text())
    (student,), (made,) = metadata["teachers"], metadata["artifacts"]
    print(f"\n{'on the validation split':32}{'AP':>7}{'AP50':>7}{'size':>10}{'latency':>10}")
    of_teacher = student["reference"]["val"]
    print(f"{'teacher, grounding_dino':32}{of_teacher['ap']:7.3f}{of_teacher['ap50']:7.3f}")
    print(f"{'student, dfine':32}{student['after']['ap']:7.3f}{student['after']['ap50']:7.3f}")
    for one in made["artifacts"]:
        milliseconds = sum(part["p50"] for part in one["benchmark"]["engine"].values())
        size = f"{one['size_bytes'] / 1e6:.2f} MB"
        print(f"{'  ' + one['format']:32}{one['attempts'][-1]['ap']:7.3f}{'':7}{size:>10}{milliseconds:7.1f} ms")
    print(f"artifacts: {output / 'artifacts'}, report: {output / 'report.html'}")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder for the fetched results")
    parser.add_argument("--only", choices=DATASETS, action="append", help="run only this manifest, without a student")
    arguments = parser.parse_args()
    started = time.monotonic()
    shutil.rmtree(arguments.output, ignore_errors=True)
    with s3_server() as url:
        os.environ.update(
            AWS_ENDPOINT_URL=url, AWS_ACCESS_KEY_ID="demo", AWS_SECRET_ACCESS_KEY="demo", AWS_DEFAULT_REGION="us-east-1"
        )
        upload(arguments.output / "data")
        for kind in arguments.only or ["both"]:
            run_uri = fine_tune(kind, arguments.output / kind)
        if not arguments.only:
            distill(run_uri, arguments.output / "edge")
    print(f"\nmeasured on images held out from training; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
