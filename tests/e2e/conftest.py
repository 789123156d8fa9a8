"""A cluster from outside, as a platform engineer and an ML engineer meet it: kubectl, the chart, object storage.

The tests run where ``E2E_S3_FROM_PODS`` says how pods reach an S3 server, and KUBECONFIG names a cluster whose nodes
have the images ``localhost/operator`` and ``localhost/trainer`` and advertise ``nvidia.com/gpu``: `make cluster-test`
makes one on a single machine, `.github/workflows/e2e.yaml` makes one with kind.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from walk import CHART, EXAMPLES, ROOT, SYSTEM, Cluster, Walk

collect_ignore_glob = [] if os.environ.get("E2E_S3_FROM_PODS") else ["test_*.py"]


@pytest.fixture(scope="session")
def walk() -> Walk:
    path = os.environ.get("E2E_WALKTHROUGH")
    return Walk(Path(path) if path else None)


@pytest.fixture(scope="session")
def cluster(walk: Walk) -> Cluster:
    return Cluster(walk)


@pytest.fixture(scope="session")
def s3_from_pods() -> str:
    """Where pods find the S3 server."""
    return os.environ["E2E_S3_FROM_PODS"]


@pytest.fixture(scope="session")
def bucket() -> str:
    """The demo's data and tiny base models, in the S3 server that AWS_ENDPOINT_URL names."""
    program = "import sys; from pathlib import Path; import demo; demo.upload(Path(sys.argv[1]))"
    folder = ROOT / "out" / "e2e"
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES)}
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, env=environment)
    return "s3://demo"


@pytest.fixture(scope="session")
def rendered() -> Callable[[dict[str, Any]], str]:
    """The chart's manifests with values, as `helm template` prints them."""

    def render(values: dict[str, Any]) -> str:
        import helm_python

        chart = helm_python.Chart.load(CHART)
        files = chart.render(values, name="teacher-finetune", namespace=SYSTEM)
        kept = [text for path, text in files.items() if not path.endswith("NOTES.txt") and "/tests/" not in path]
        return "\n---\n".join(text for text in kept if text.strip())

    return render
