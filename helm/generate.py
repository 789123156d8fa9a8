"""Write the files that are generated from the chart's sources: ``make chart``. A test fails if one is out of date.

From the CRD: its template. From ``values.yaml`` and ``schema.yaml``: the chart's schema and README. From
``dashboard.py`` and ``config/argocd/health.lua``: the files that the chart carries. From the chart: the manifests for
use without Helm, and the page of its permissions.

No package on PyPI or npm makes the same: helm-docs and helm-schema are Go programs, and Bitnami's readme-generator
has no patterns, enums or bounds in its schema, only types and defaults.
"""

from __future__ import annotations

import json
import re
import runpy
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

HELM = Path(__file__).resolve().parent
ROOT = HELM.parent
CHART = HELM / "teacher-finetune"
NAME = "teacher-finetune"

MANIFEST_HEAD = "# Generated from the chart by `make chart`: {what}\n"

NAMESPACE = """\
apiVersion: v1
kind: Namespace
metadata:
  name: teacher-finetune
  labels:
    app.kubernetes.io/name: teacher-finetune
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/warn: restricted
"""

KINDS = (
    "Namespace",
    "CustomResourceDefinition",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "ConfigMap",
    "Deployment",
)
"""Order of creation."""


# The values: descriptions, schema, README.


def descriptions() -> dict[str, str]:
    """The description of each value that has one, by its path: ``image.tag``."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    comment: list[str] | None = None
    for line in (CHART / "values.yaml").read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("# -- "):
            comment = [text.removeprefix("# -- ")]
        elif text.startswith("#") and comment is not None:
            comment.append(text.removeprefix("#").strip())
        elif match := re.match(r"( *)([A-Za-z0-9_]+):", line):
            indent = len(match[1])
            path = [*(part for part in path if part[0] < indent), (indent, match[2])]
            if comment is not None:
                found[".".join(name for _, name in path)] = " ".join(comment)
            comment = None
        else:
            comment = None
    return found


def schema() -> dict[str, Any]:
    """The chart's schema: that of ``schema.yaml``, with the descriptions and defaults of ``values.yaml``."""
    source = yaml.safe_load((HELM / "schema.yaml").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    described = descriptions()

    def complete(part: dict[str, Any], default: Any, path: str) -> dict[str, Any]:
        said = {"description": described[path]} if path in described else {}
        if "properties" in part and "type" not in part:
            inner = {
                name: complete(one, default.get(name), f"{path}.{name}") for name, one in part["properties"].items()
            }
            return {"type": "object", **said, "additionalProperties": False, "properties": inner}
        # Older readers ignore all keywords next to a reference.
        shape = {"allOf": [part]} if "$ref" in part and said else part
        return {**said, **({} if default is None else {"default": default}), **shape}

    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of teacher-finetune",
        "type": "object",
        "additionalProperties": False,
        "properties": {name: complete(part, values.get(name), name) for name, part in source["properties"].items()},
        "definitions": source["definitions"],
    }


README = """\
# teacher-finetune

{description} Version {version} of the chart, {app_version} of the operator; Kubernetes {kubernetes}.

```console
helm install teacher-finetune helm/teacher-finetune --namespace teacher-finetune --create-namespace \\
  --set image.registry=registry.example.com
helm test teacher-finetune --namespace teacher-finetune --logs
```

[docs/install.md](../../docs/install.md) describes upgrades, uninstalling, installation for selected namespaces, a
second operator, and installation without Helm. [docs/rbac.md](../../docs/rbac.md) lists every permission of the
operator with its reason.

The operator needs no volume, no Secret, no webhook and no certificate. It runs under the restricted Pod Security
Standard, and so do the pods of the runs.

## Values

Every value is checked against `values.schema.json`: unknown names and invalid values are refused.

| Key | Type | Default | Description |
| --- | --- | --- | --- |
{rows}

## Alerts

Enabled by `prometheusRule.enabled`. The description of each alert contains the remedy.

| Alert | Severity | When |
| --- | --- | --- |
{alerts}
"""


def readme() -> str:
    """The chart's README."""
    made = schema()
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    alerts = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text(encoding="utf-8"))
    return README.format(
        description=metadata["description"],
        version=metadata["version"],
        app_version=metadata["appVersion"],
        kubernetes=metadata["kubeVersion"].removesuffix("-0").replace(">=", "from ") + " on",
        rows="\n".join(_rows(made["properties"], made["definitions"], "")),
        alerts="\n".join(
            f"| {alert['alert']} | {alert['labels']['severity']} | {_alert(alert['annotations']['summary'])} |"
            for alert in alerts
        ),
    )


def _alert(summary: str) -> str:
    """Return a summary without the placeholders of Prometheus."""
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"(\1)", summary)
    text = re.sub(r"\{\{ \$value[^}]*\}\}", "(number)", text)
    return text.replace("NAMESPACE/NAME", "the release")


def _rows(properties: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, part in properties.items():
        if "description" not in part:
            yield from _rows(part.get("properties", {}), definitions, f"{prefix}{name}.")
            continue
        default = json.dumps(part.get("default"), ensure_ascii=False).replace("|", "\\|")
        description = part["description"].replace("|", "\\|")
        yield f"| `{prefix}{name}` | {_type(part, definitions)} | `{default}` | {description} |"


def _type(part: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    inner = part["allOf"][0] if "allOf" in part else part
    if "$ref" in inner:
        inner = definitions[inner["$ref"].rsplit("/", 1)[1]]
    if "enum" in inner:
        return ", ".join(f"`{value}`" for value in inner["enum"])
    if "anyOf" in inner:
        return " or ".join(one["type"] for one in inner["anyOf"])
    return str(
        {"array": "list", "object": "map", "string": "text", "boolean": "bool"}.get(inner["type"], inner["type"])
    )


# Files of the chart.


def crd_template() -> str:
    """Return the CustomResourceDefinition as a template that can be disabled and is kept on uninstall."""
    lines = (ROOT / "crds" / "teacherfinetunes.finetune.dev.yaml").read_text(encoding="utf-8").splitlines()
    body = [line.replace("{{", '{{ "{{" }}') for line in lines if not line.startswith("#")]
    name = body.index("  name: teacherfinetunes.finetune.dev")
    metadata = """\
  labels:
    {{- include "teacher-finetune.labels" (list . "crd") | nindent 4 }}
  {{- $keep := .Values.crds.keep | ternary (dict "helm.sh/resource-policy" "keep") (dict) }}
  {{- with merge $keep .Values.crds.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}"""
    body.insert(name + 1, metadata)
    head = "{{- /* Generated from crds/ by `make chart`. */}}\n{{- if .Values.crds.enabled }}\n"
    return head + "\n".join(body) + "\n{{- end }}\n"


def dashboard_json() -> str:
    """The Grafana dashboard."""
    made = runpy.run_path(str(HELM / "dashboard.py"))["dashboard"]()
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def health() -> str:
    """Argo CD's health script."""
    return (ROOT / "config" / "argocd" / "health.lua").read_text(encoding="utf-8")


def argocd_cm() -> str:
    """The part of Argo CD's own ConfigMap that names the health script."""
    return (
        "# Generated from health.lua by `make chart`. It is a part of Argo CD's own ConfigMap:\n"
        "# kubectl -n argocd patch configmap argocd-cm --patch-file config/argocd/argocd-cm.yaml\n"
        "data:\n  resource.customizations.health.finetune.dev_TeacherFineTune: |\n" + textwrap.indent(health(), "    ")
    )


# Rendering of the chart.


def render(values: Mapping[str, Any] | None = None, *, name: str = NAME, namespace: str = NAME) -> dict[str, str]:
    """The rendered templates by path, NOTES.txt and the hooks of `helm test` too."""
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render(dict(values or {}), name=name, namespace=namespace)
    return {path.removeprefix(f"{NAME}/templates/"): text for path, text in rendered.items()}


def documents(rendered: Mapping[str, str]) -> list[str]:
    """The objects as texts, comments kept, in the order in which they are created; no hooks."""
    texts = [
        part.strip("\n") + "\n"
        for path, text in rendered.items()
        if path.endswith(".yaml") and not path.startswith("tests/")
        for part in re.split(r"^---$", text, flags=re.MULTILINE)
        if re.search("^kind: ", part, flags=re.MULTILINE)
    ]

    def order(text: str) -> tuple[int, str, str, str]:
        kind = _kind(text)
        namespace, name = (
            match[1] if (match := re.search(rf"^  {field}: (\S+)$", text, flags=re.MULTILINE)) else ""
            for field in ("namespace", "name")
        )
        return KINDS.index(kind) if kind in KINDS else len(KINDS), kind, namespace, name

    return sorted(texts, key=order)


def _kind(text: str) -> str:
    match = re.search(r"^kind: (\w+)$", text, flags=re.MULTILINE)
    return match[1] if match else ""


def _plain(text: str) -> str:
    """Return an object without the fields that only Helm reads."""
    kept = [line for line in text.splitlines() if not re.match(r" +(helm\.sh/|app\.kubernetes\.io/managed-by:)", line)]
    return re.sub(r"^  annotations:\n(?=  \S|\S)", "", "\n".join(kept) + "\n", flags=re.MULTILINE)


def manifest(what: str, values: Mapping[str, Any], *, only: tuple[str, ...] = (), head: tuple[str, ...] = ()) -> str:
    """Return one file of objects for use without Helm."""
    made = [_plain(text) for text in documents(render(values))]
    made = [text for text in made if not only or _kind(text) in only]
    return MANIFEST_HEAD.format(what=what) + "---\n".join([*head, *made])


def install() -> str:
    """Return everything that a cluster needs."""
    what = "the operator for all namespaces. `kubectl apply --server-side -f config/install.yaml`"
    return manifest(what, {}, head=(NAMESPACE,))


def install_namespaced() -> str:
    """Return the operator for its own namespace only, without cluster-wide objects."""
    what = (
        "the operator for its own namespace only.\n# It contains no cluster-wide object: the CustomResourceDefinition "
        "(crds/) and the namespace must exist."
    )
    values = {"scope": {"namespaces": [NAME]}, "crds": {"enabled": False}, "rbac": {"aggregate": False}}
    return manifest(what, values)


def monitoring() -> str:
    """Return the objects for Prometheus and Grafana."""
    what = "scraping, alerts and a dashboard. The first two need the Prometheus operator."
    always = {"enabled": True, "renderMode": "alwaysRender"}
    values = {"serviceMonitor": always, "prometheusRule": always, "grafanaDashboard": {"enabled": True}}
    return manifest(what, values, only=("ServiceMonitor", "PrometheusRule", "ConfigMap"))


def network_policy() -> str:
    """The operator's NetworkPolicy."""
    what = "the operator reaches DNS and the API server, and is reached on its port."
    return manifest(what, {"networkPolicy": {"enabled": True}}, only=("NetworkPolicy",))


def admission_policy() -> str:
    """The ValidatingAdmissionPolicy, with lists that allow everything."""
    what = "choices of objects, checked by the API server.\n# Edit the first variables; TEACHER_ALLOWED of the "
    what += (
        "operator has the same lists.\n# `kubectl apply --server-side -f config/admission-policy/admission-policy.yaml`"
    )
    kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    return manifest(what, {"admissionPolicy": {"enabled": True}}, only=kinds)


# The page of permissions.

RBAC = """\
# Permissions of the operator

Every permission that the chart grants, with its reason. `make chart` generates this page from the chart.

The operator reads no Secret, executes nothing inside a pod, deletes only Jobs, and has no wildcard and no permission
for nodes, namespaces, CustomResourceDefinitions or roles. It has no access to object storage: the pods of a run use the
service account, or the Secret, that the object names, in the object's own namespace. Users who may
create a `TeacherFineTune` in a namespace can therefore use the service accounts and Secrets there, like users who may
create a Job.

## The operator

A ClusterRole, or with `scope.namespaces` a Role in each of these namespaces and no ClusterRole.

{operator}

## With leader election

A Role in the operator's own namespace, only with `leaderElection.enabled`.

{lease}

## With authentication of metrics

A ClusterRole, only with `metrics.authentication.enabled`, because reviews have no namespace. Prometheus gets the role
`{name}-metrics` (`get` on the nonResourceURL `/metrics`) from `metrics.authentication.subjects` or your own binding.

{reviews}

## Users

With `rbac.aggregate`, these permissions are aggregated to the cluster's own roles.

{users}

## `helm test`

A Role in the operator's own namespace, which exists while the test runs, for the test's own service account.

{test}
"""


def rbac_page() -> str:
    """Return the page of permissions, from the comments above the rules."""
    roles = dict(
        role_tables(
            render(
                {
                    "leaderElection": {"enabled": True},
                    "metrics": {"authentication": {"enabled": True}},
                    "runNetworkPolicy": {"enabled": True},
                }
            )
        )
    )
    users = f"`view`, `edit` and `admin`:\n\n{roles[f'{NAME}-view']}\n\n`edit` and `admin`:\n\n{roles[f'{NAME}-edit']}"
    return RBAC.format(
        name=NAME,
        operator=roles[NAME],
        lease=roles[f"{NAME}-leader"],
        reviews=roles[f"{NAME}-reviews"],
        users=users,
        test=roles[f"{NAME}-test"],
    )


def role_tables(rendered: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The name of each role, and its rules as a table."""
    for text in rendered.values():
        for part in re.split(r"^---$", text, flags=re.MULTILINE):
            if not re.search(r"^kind: (Cluster)?Role$", part, flags=re.MULTILINE):
                continue
            rows = [_rule_row(rule, reason) for rule, reason in rules_with_reasons(part)]
            head = "| API group | Resources | Verbs | Why |\n| --- | --- | --- | --- |\n"
            yield yaml.safe_load(part)["metadata"]["name"], head + "\n".join(rows)


def rules_with_reasons(role: str) -> list[tuple[dict[str, Any], str]]:
    """The rules of a rendered role, each with the comment above it."""
    rules: list[tuple[dict[str, Any], str]] = []
    for reason, body in re.findall(
        r"((?:^ +# .*\n)*)(^ +- apiGroups:.*(?:\n +[a-zA-Z]+:.*)*)", role, flags=re.MULTILINE
    ):
        words = " ".join(line.strip().removeprefix("# ") for line in reason.splitlines())
        rules.append((yaml.safe_load(body)[0], words))
    return rules


def _rule_row(rule: Mapping[str, Any], reason: str) -> str:
    groups = ", ".join(f"`{group}`" if group else "core" for group in rule["apiGroups"])
    resources = ", ".join(f"`{resource}`" for resource in rule["resources"])
    if "resourceNames" in rule:
        resources += " named " + ", ".join(f"`{name}`" for name in rule["resourceNames"])
    return f"| {groups} | {resources} | {', '.join(rule['verbs'])} | {reason} |"


OUTPUTS: dict[str, Callable[[], str]] = {
    "helm/teacher-finetune/templates/crd.yaml": crd_template,
    "helm/teacher-finetune/values.schema.json": lambda: json.dumps(schema(), indent=1, ensure_ascii=False) + "\n",
    "helm/teacher-finetune/files/dashboard.json": dashboard_json,
    "helm/teacher-finetune/files/argocd-health.lua": health,
    "helm/teacher-finetune/README.md": readme,
    "config/argocd/argocd-cm.yaml": argocd_cm,
    "config/install.yaml": install,
    "config/install-namespaced.yaml": install_namespaced,
    "config/monitoring/monitoring.yaml": monitoring,
    "config/network-policy/network-policy.yaml": network_policy,
    "config/admission-policy/admission-policy.yaml": admission_policy,
    "docs/rbac.md": rbac_page,
}
"""Written files, in this order: later ones are generated from the chart that earlier ones complete."""


if __name__ == "__main__":
    for path, make in OUTPUTS.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(make(), encoding="utf-8")
