"""What is made from the chart has not drifted, and the plain manifests hold nothing of Helm."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from loops import nonempty

from .conftest import CHART, ROOT, Object, Render, objects_of, one

OUTPUTS = runpy.run_path(str(ROOT / "helm" / "generate.py"))["OUTPUTS"]


@pytest.mark.parametrize("file", OUTPUTS)
def test_a_file_made_from_the_chart_has_not_drifted(file: str) -> None:
    assert (ROOT / file).read_text() == OUTPUTS[file](), "run `make chart`"


def leaves(values: Any, path: str = "") -> list[str]:
    if isinstance(values, dict) and values:
        return [leaf for name, value in values.items() for leaf in leaves(value, f"{path}.{name}" if path else name)]
    return [path]


def test_every_value_is_described_and_has_a_place_in_the_schema(generate: dict[str, Any]) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    described = generate["descriptions"]()
    schema = json.loads((CHART / "values.schema.json").read_text())
    for leaf in nonempty(leaves(values)):
        parts = leaf.split(".")
        assert any(".".join(parts[:depth]) in described for depth in range(1, len(parts) + 1)), leaf
    for path in described:
        place = schema
        for part in path.split("."):
            place = place["properties"][part]
        assert place["description"] == described[path]


def test_the_schema_has_no_value_that_there_is_not() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(part: dict[str, Any], value: Any, path: str) -> None:
        for name, inner in part.get("properties", {}).items():
            if not path and name == "global":
                continue
            assert name in value, f"{path}.{name}"
            if inner.get("additionalProperties") is False and "default" not in inner:
                compare(inner, value[name], f"{path}.{name}")

    compare(json.loads((CHART / "values.schema.json").read_text()), values, "")


def test_every_value_is_used_by_a_template() -> None:
    texts = "\n".join(file.read_text() for file in (CHART / "templates").rglob("*") if file.is_file())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for name, value in values.items():
        assert f".Values.{name}" in texts, name
        for inner in value if isinstance(value, dict) else ():
            if (
                name in {"allow", "commonLabels", "podSecurityContext", "securityContext", "resources"}
                or "Resources" in name
            ):
                continue
            assert re.search(rf"\.{inner}\b", texts), f"{name}.{inner}"


def plain() -> list[Object]:
    return objects_of((ROOT / "config" / "install.yaml").read_text())


def test_the_plain_manifest_installs_what_the_chart_installs(render: Render) -> None:
    charted = [
        (thing["kind"], thing["metadata"]["name"])
        for thing in render(name="teacher-finetune", namespace="teacher-finetune")
        if "helm.sh/hook" not in thing["metadata"].get("annotations", {})
    ]
    there = [(thing["kind"], thing["metadata"]["name"]) for thing in plain()]
    assert sorted(there) == sorted([*charted, ("Namespace", "teacher-finetune")])


def test_the_plain_manifest_holds_nothing_of_helm() -> None:
    for file in nonempty((ROOT / "config").rglob("*.yaml")):
        assert "helm.sh/" not in file.read_text()
        assert "managed-by: Helm" not in file.read_text()


def test_the_plain_manifest_comes_in_an_order_in_which_it_can_be_applied() -> None:
    kinds = [thing["kind"] for thing in plain()]
    assert kinds[:2] == ["Namespace", "CustomResourceDefinition"]
    assert kinds[-1] == "Deployment"
    enforced = one(plain(), "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert enforced == "restricted"


def kustomize(folder: str) -> list[Object]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which carries Kustomize, is not there")
    built = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert built.returncode == 0, built.stderr
    return objects_of(built.stdout)


def test_the_kustomize_base_is_the_plain_manifest() -> None:
    def key(thing: Object) -> str:
        return f"{thing['kind']}/{thing['metadata']['name']}"

    assert sorted(kustomize("config"), key=key) == sorted(plain(), key=key)


def test_the_overlay_changes_images_where_the_operator_reads_them_too() -> None:
    objects = kustomize("examples/gitops/kustomize")
    container = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert (
        container["image"] == values["TEACHER_OPERATOR_IMAGE"] == "registry.example.com/teacher-finetune/operator:0.1.0"
    )
    assert values["TEACHER_TRAINER_IMAGE"] == "registry.example.com/teacher-finetune/trainer:0.1.0"
    assert values["TEACHER_ALLOWED_ENDPOINTS"] == "s3.example.com"
    assert one(objects, "NetworkPolicy")


def test_kustomizations_list_what_is_there() -> None:
    found = [*(ROOT / "config").rglob("kustomization.yaml"), *(ROOT / "examples").rglob("kustomization.yaml")]
    assert len(found) == 9
    for file in found:
        kustomization = yaml.safe_load(file.read_text())
        listed = [*kustomization["resources"], *(patch["path"] for patch in kustomization.get("patches", ()))]
        for name in [*listed, *kustomization.get("configurations", ())]:
            assert (file.parent / name).exists(), f"{file}: {name}"


def test_the_gitops_examples_name_what_is_there() -> None:
    applications = [
        objects_of((ROOT / "examples" / "gitops" / "argocd" / name).read_text())[0]
        for name in ("operator.yaml", "runs.yaml", "stages.yaml")
    ]
    for application in nonempty(applications):
        assert (ROOT / application["spec"]["source"]["path"]).is_dir()
    release = one(objects_of((ROOT / "examples" / "gitops" / "flux" / "operator.yaml").read_text()), "HelmRelease")
    assert (ROOT / release["spec"]["chart"]["spec"]["chart"] / "Chart.yaml").exists()
    runs = objects_of((ROOT / "examples" / "gitops" / "flux" / "runs.yaml").read_text())[0]
    assert (ROOT / runs["spec"]["path"]).is_dir()
    assert runs["spec"]["wait"] is True


def test_the_values_of_the_gitops_examples_are_values_of_the_chart(render: Render) -> None:
    application = objects_of((ROOT / "examples" / "gitops" / "argocd" / "operator.yaml").read_text())[0]
    release = one(objects_of((ROOT / "examples" / "gitops" / "flux" / "operator.yaml").read_text()), "HelmRelease")
    assert render(application["spec"]["source"]["helm"]["valuesObject"])
    assert render(release["spec"]["values"])


def test_the_page_on_installing_names_files_and_values_that_there_are(render: Render) -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    for link in nonempty(re.findall(r"\]\((\.\./[^)#]+)\)", page)):
        assert (ROOT / "docs" / link).exists(), link
    for file in nonempty(re.findall(r"(?<![\w/])((?:config|helm|examples|crds)/[\w./-]*)", page)):
        assert (ROOT / file).exists(), file
    schema = json.loads((CHART / "values.schema.json").read_text())
    named = re.findall(r"--set (\w[\w.]*)=", page)
    named += re.findall(r"`((?:crds|rbac|openshift|prometheusRule|service|podEnv|image|trainerImage)\.\w+)", page)
    assert len(named) > 20
    for path in named:
        place = schema
        for part in path.split("."):
            if "properties" not in place:
                break  # a map of any names
            assert part in place["properties"], path
            place = place["properties"][part]
