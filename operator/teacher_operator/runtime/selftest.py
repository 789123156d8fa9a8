"""Self-test for ``helm test``: the operator answers, and the API server accepts a ``TeacherFineTune``."""

from __future__ import annotations

import os
import sys
from http import HTTPStatus

import aiohttp
from kubernetes.aio.config import ConfigException

from teacher_operator.api.spec import API_VERSION, KIND
from teacher_operator.runtime.cluster import ApiError, Cluster, connect

TIMEOUT = aiohttp.ClientTimeout(total=15)


async def selftest(url: str) -> int:
    """Print one line per check.

    Args:
        url: URL of the operator's Service.

    Returns:
        Exit code: 0 if all checks pass.
    """
    namespace = os.environ.get("TEACHER_POD_NAMESPACE", "default")
    try:
        # Only the readiness is read, and nothing is sent: the certificate may be of an authority unknown here.
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session, session.get(f"{url}/readyz", ssl=False) as answer:
            if answer.status != HTTPStatus.OK:
                return _say(f"the operator at {url} is not ready: {await answer.text()}", code=1)
        _say(f"the operator at {url} is ready")
        cluster = Cluster(await connect())
        try:
            await cluster.create_dry(KIND, namespace, example(namespace))
        finally:
            await cluster.close()
    except (aiohttp.ClientError, TimeoutError) as error:
        return _say(f"the operator does not answer at {url}: {error or type(error).__name__}", code=1)
    except (ApiError, ConfigException) as error:
        return _say(f"the API server does not take a {KIND}: {error}", code=1)
    return _say(f"the API server takes a {KIND} in {namespace} (nothing was made)")


def example(namespace: str) -> dict[str, object]:
    """Return an object with only the required fields."""
    spec = {
        "dataset": {"annotations": "s3://example/annotations.json", "images": "s3://example/images/"},
        "output": "s3://example/adapters/",
    }
    metadata = {"name": "selftest", "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def _say(sentence: str, *, code: int = 0) -> int:
    sys.stdout.write(f"{sentence}\n")
    return code
