"""Parts of a spec that settle what pods are like: such as the API server takes, and such as it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from teacher_operator.api.pod_settings import ANNOTATIONS_MESSAGE, ENV_MESSAGE, LABELS_MESSAGE
from teacher_operator.api.pod_volumes import ONE_SOURCE, PATH_MESSAGE, VOLUME_MESSAGE

Part = Mapping[str, Any]


def env(name: str, **source: Any) -> Part:
    return {"env": [{"name": name, **(source or {"value": "x"})}]}


def volume(source: str, **settings: Any) -> Part:
    return {"volumes": [{"name": "extra", source: settings}]}


def mount(path: str) -> Part:
    return {"volumes": [{"name": "extra", "emptyDir": {}}], "volumeMounts": [{"name": "extra", "mountPath": path}]}


def claim(**settings: Any) -> Part:
    return {"resourceClaims": [{"name": "gpu", **settings}]}


KEY = {"name": "keys", "key": "token"}

CASES: Mapping[str, tuple[Sequence[Part], Sequence[Part]]] = {
    LABELS_MESSAGE: (
        [{"labels": {"cost-center": "7", "example.com/team": "a", "kueue.x-k8s.io/podset": "a", "job": "a"}}],
        [
            {"labels": {name: "x"}}
            for name in (
                "finetune.dev/run",
                "batch.kubernetes.io/job-name",
                "app.kubernetes.io/managed-by",
                "controller-uid",
                "job-name",
                "kueue.x-k8s.io/queue-name",
                "kueue.x-k8s.io/priority-class",
            )
        ],
    ),
    ANNOTATIONS_MESSAGE: (
        [{"annotations": {"sidecar.istio.io/inject": "false", "example.com/json": '{"a": [1, "ä"]}'}}],
        [{"annotations": {"finetune.dev/platform-hash": "x"}}],
    ),
    ENV_MESSAGE: (
        [env(name) for name in ("HTTPS_PROXY", "HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_MAX_ATTEMPTS", "MY_HOME", "home")],
        [
            env(name)
            for name in (
                "HOME",
                "TMPDIR",
                "HF_HOME",
                "TEACHER_GPUS",
                "TEACHER_S3_REQUESTER_PAYS",
                "AWS_ENDPOINT_URL",
                "AWS_ENDPOINT_URL_STS",
                "AWS_REGION",
                "AWS_DEFAULT_REGION",
                "AWS_CA_BUNDLE",
                "SSL_CERT_FILE",
                "JOB_COMPLETION_INDEX",
            )
        ],
    ),
    "give either the value of a variable or valueFrom": (
        [env("A", value=""), env("A"), env("A", valueFrom={"secretKeyRef": KEY})],
        [env("A", value="x", valueFrom={"secretKeyRef": KEY})],
    ),
    "valueFrom has exactly one of secretKeyRef and configMapKeyRef": (
        [env("A", valueFrom={"configMapKeyRef": {**KEY, "optional": True}})],
        [env("A", valueFrom={}), env("A", valueFrom={"configMapKeyRef": KEY, "secretKeyRef": KEY})],
    ),
    VOLUME_MESSAGE: (
        [{"volumes": [{"name": name, "emptyDir": {}}]} for name in ("my-scratch", "claim-a")],
        [
            {"volumes": [{"name": name, "emptyDir": {}}]}
            for name in ("scratch", "shm", "models", "request", "ca-bundle", "claim-0")
        ],
    ),
    PATH_MESSAGE: (
        [mount(path) for path in ("/opt/tools", "/etc/ssl/certs", "/tmp", "/scratch2", "/home/u/.cache", "/data/.a")],
        [
            mount(path)
            for path in (
                "/scratch",
                "/scratch/work",
                "/models",
                "/claims/a",
                "/dev/shm",
                "/proc",
                "/etc",
                "/etc/teacher/x",
                "/etc/teacher-ca",
            )
        ],
    ),
    ONE_SOURCE: (
        [
            volume("configMap", name="a", items=[{"key": "a", "path": "b/c"}]),
            volume("secret", secretName="a", defaultMode=256),
            volume("persistentVolumeClaim", claimName="a", readOnly=True),
            volume("emptyDir", medium="Memory", sizeLimit="1Gi"),
            volume("emptyDir"),
            volume("projected", sources=[{"serviceAccountToken": {"path": "token", "audience": "a"}}]),
            volume("csi", driver="secrets-store.csi.k8s.io", volumeAttributes={"secretProviderClass": "a"}),
        ],
        [
            {"volumes": [{"name": "extra"}]},
            {"volumes": [{"name": "extra", "emptyDir": {}, "configMap": {"name": "a"}}]},
        ],
    ),
    "a claim has exactly one of resourceClaimName and resourceClaimTemplateName": (
        [claim(resourceClaimName="shared"), claim(resourceClaimTemplateName="gpu", gpus=0)],
        [claim(), claim(resourceClaimName="shared", resourceClaimTemplateName="gpu")],
    ),
}
"""By the message of the rule; each part may stand in ``spec.pod`` and in a stage."""
