"""ConfigMap with the request that inspection reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from engine.stages import INSPECTION
from teacher_operator.api.names import child_metadata, request_config_map
from teacher_operator.api.spec import API_VERSION, INPUTS, KIND

Body = Mapping[str, Any]
Manifest = dict[str, Any]

REQUEST_KEY = "request.yaml"

ONLY_ON_A_CLUSTER = frozenset({"credentialsSecretRef", "caBundleConfigMapRef"})
"""Fields of ``storage`` that determine the pods; inspection does not read them."""

LIBYAML: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class QuotingDumper(LIBYAML):  # type: ignore[misc]
    """YAML dumper that quotes all text; based on libyaml if available, which takes a fifth of the time.

    PyYAML does not quote text that YAML 1.2 reads as a number, such as ``1e-4``.
    """


QuotingDumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


def request(body: Body) -> Manifest:
    """Return the ConfigMap that inspection reads: the object without the fields that only a cluster uses."""
    spec = {name: body["spec"][name] for name in INPUTS if name in body["spec"]}
    if "storage" in spec:
        spec["storage"] = {k: v for k, v in spec["storage"].items() if k not in ONLY_ON_A_CLUSTER}
    name = body["metadata"]["name"]
    manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}
    # ASCII output: a Unicode line break would be read back as a space.
    text = yaml.dump(manifest, Dumper=QuotingDumper, sort_keys=False)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(body, INSPECTION, request_config_map(name, body["metadata"]["uid"])),
        "data": {REQUEST_KEY: text},
    }
