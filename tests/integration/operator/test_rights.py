"""What the operator may do, and all that it may not, on the real API server. Every scenario runs with these rights."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import control_plane as real
import outcomes
import pytest
import pytest_asyncio
import yaml
from kubelet import LogServer
from operators import ProcessOperator
from places import OPERATOR, ROOT, SERVER, admin, check_log, make_namespace, run_plainly, token_of
from world import Api, World

ACCOUNT = f"system:serviceaccount:{OPERATOR}:{OPERATOR}"
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
"""Tests of this module may fall to several processes, which share the cluster."""

NAMESPACED, FORBIDDEN = f"confined-{WORKER}", f"forbidden-{WORKER}"
"""Where an installation for one namespace is, and another one that it has no rights in."""

NEVER = [
    "get secrets",
    "list secrets",
    "watch secrets",
    "create secrets",
    "create pods",
    "delete pods",
    "patch pods",
    "create pods/exec",
    "get pods/exec",
    "create pods/attach",
    "create pods/portforward",
    "create pods/eviction",
    "list configmaps",
    "watch configmaps",
    "delete configmaps",
    "list services",
    "delete services",
    "update jobs.batch",
    "deletecollection jobs.batch",
    "patch jobs.batch/status",
    "create teacherfinetunes.finetune.dev",
    "patch teacherfinetunes.finetune.dev",
    "update teacherfinetunes.finetune.dev",
    "delete teacherfinetunes.finetune.dev",
    "delete events",
    "create serviceaccounts/token",
    "impersonate serviceaccounts",
    "create roles.rbac.authorization.k8s.io",
    "create rolebindings.rbac.authorization.k8s.io",
    "escalate roles.rbac.authorization.k8s.io",
    "bind clusterroles.rbac.authorization.k8s.io",
    "create clusterrolebindings.rbac.authorization.k8s.io",
    "get customresourcedefinitions.apiextensions.k8s.io",
    "create customresourcedefinitions.apiextensions.k8s.io",
    "patch customresourcedefinitions.apiextensions.k8s.io",
    "list namespaces",
    "list nodes",
    "create persistentvolumeclaims",
    "create deployments.apps",
    "create validatingwebhookconfigurations.admissionregistration.k8s.io",
]
NEEDED = [
    "list teacherfinetunes.finetune.dev",
    "watch teacherfinetunes.finetune.dev",
    "patch teacherfinetunes.finetune.dev/status",
    "update teacherfinetunes.finetune.dev/finalizers",
    "create jobs.batch",
    "patch jobs.batch",
    "delete jobs.batch",
    "watch jobs.batch",
    "watch pods",
    "get pods/log",
    "get configmaps",
    "create configmaps",
    "patch configmaps",
    "get services",
    "create services",
    "patch services",
    "create events",
    "list events",
]


@pytest.fixture(scope="module")
def confined(control_plane: real.ControlPlane) -> str:
    """The manifests for one namespace, in a namespace of their own; the account that they make."""
    for name in (NAMESPACED, FORBIDDEN):
        run_plainly(make_namespace(control_plane, name))
    text = (ROOT / "config" / "install-namespaced.yaml").read_text()
    parts = [part for part in yaml.safe_load_all(text) if part["kind"] != "CustomResourceDefinition"]
    moved = json.loads(json.dumps(parts).replace(f'"namespace": "{OPERATOR}"', f'"namespace": "{NAMESPACED}"'))
    done = control_plane.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(moved))
    assert done.returncode == 0, done.stderr
    return f"system:serviceaccount:{NAMESPACED}:{OPERATOR}"


async def _allowed(api: Api, account: str, wanted: Sequence[str], namespace: str) -> list[str]:
    """What of verbs and resources, such as ``get pods/log``, an account may do in a namespace."""

    async def may(what: str) -> bool:
        verb, _, resource = what.partition(" ")
        name, _, sub = resource.partition("/")
        plural, _, group = name.partition(".")
        attributes = {"verb": verb, "resource": plural, "group": group, "subresource": sub, "namespace": namespace}
        groups = ["system:serviceaccounts", "system:authenticated"]
        spec = {"user": account, "groups": groups, "resourceAttributes": attributes}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        answer = await api.call("POST", "apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    answers = await asyncio.gather(*map(may, wanted))
    return [what for what, answer in zip(wanted, answers, strict=True) if answer]


@pytest_asyncio.fixture
async def api(control_plane: real.ControlPlane) -> AsyncIterator[Api]:
    async with admin(control_plane) as connected:
        yield connected


@pytest.mark.asyncio
async def test_the_operator_may_do_no_more_than_it_must(api: Api) -> None:
    for namespace in ("default", "kube-system", OPERATOR):
        assert await _allowed(api, ACCOUNT, NEEDED, namespace) == NEEDED
        assert await _allowed(api, ACCOUNT, NEVER, namespace) == []
    leases = [f"{verb} leases.coordination.k8s.io" for verb in ("create", "get", "update", "delete")]
    assert await _allowed(api, ACCOUNT, leases, OPERATOR) == leases[:1], "of one name alone, else"
    assert await _allowed(api, ACCOUNT, leases, "kube-system") == []


def test_kubectl_says_the_same(control_plane: real.ControlPlane) -> None:
    for what, answer in (("get secrets", "no"), ("create pods/exec", "no"), ("create jobs.batch", "yes")):
        done = control_plane.kubectl("auth", "can-i", *what.split(), f"--as={ACCOUNT}", "-n", "default")
        assert done.stdout.strip() == answer, what


@pytest.mark.asyncio
async def test_confined_to_a_namespace_it_may_nothing_elsewhere(api: Api, confined: str) -> None:
    assert await _allowed(api, confined, NEEDED, NAMESPACED) == NEEDED
    assert await _allowed(api, confined, NEVER, NAMESPACED) == []
    for namespace in (FORBIDDEN, "default", "kube-system", ""):
        assert await _allowed(api, confined, [*NEEDED, *NEVER], namespace) == []


def test_it_is_refused_what_it_may_not(control_plane: real.ControlPlane, operator_kubeconfig: Path) -> None:
    """With its own token, not by asking about it."""
    for arguments in (
        ("get", "secrets", "-A"),
        ("get", "secret", "any", "-n", "default"),
        ("run", "pod", "--image=any", "-n", "default"),
        ("create", "rolebinding", "any", "--clusterrole=cluster-admin", "--user=any", "-n", "default"),
        ("delete", "crd", "teacherfinetunes.finetune.dev"),
        ("get", "nodes"),
        ("get", "pods", "-A", "--as=admin"),
        ("get", "pods", "-A", "--as=any", "--as-group=system:masters"),
        ("create", "clusterrole", "any", "--verb=*", "--resource=*"),
        ("patch", "clusterrole", OPERATOR, "--type=merge", "-p", '{"rules": []}'),
        ("create", "token", "default", "-n", "default"),
    ):
        done = real.kubectl(operator_kubeconfig, *arguments)
        assert done.returncode != 0
        assert "forbidden" in done.stderr.lower(), arguments


@pytest_asyncio.fixture
async def confined_world(
    control_plane: real.ControlPlane, confined: str, kubelet: tuple[LogServer, str], tmp_path: Path
) -> AsyncIterator[World]:
    """An operator with rights in one namespace alone."""
    assert confined
    token = token_of(control_plane, OPERATOR, NAMESPACED)
    access = real.Access(control_plane.access.url, control_plane.access.authority, token)
    kubeconfig = access.kubeconfig(tmp_path / "kubeconfig")
    operator = ProcessOperator(kubeconfig, tmp_path / "operator.log", namespaces=(NAMESPACED,))
    server, node = kubelet
    async with admin(control_plane) as api:
        await operator.start()
        yield World(api, NAMESPACED, operator, SERVER, server.logs, node=node, patience=60)
        await operator.stop()
    check_log(operator)


@pytest.mark.asyncio
async def test_an_operator_for_one_namespace_does_its_work_there_and_nowhere_else(confined_world: World) -> None:
    world, run = confined_world, f"confined-{uuid.uuid4().hex[:5]}"
    await world.create(run, namespace=FORBIDDEN)
    await world.create(run, nodes=2)
    await world.inspects(run)
    first = await world.starts(run)
    await world.says(first, outcomes.step(50))
    second = await world.pod(run, "grounding-dino", besides=[first["metadata"]["name"]])
    await world.runs(second)

    async def half() -> bool:
        return bool((await world.teacher(run)).get("progress", {}).get("percent") == 50)

    await world.until(half, "progress is read")
    await world.edit(run, suspend=True)
    await asyncio.gather(*(world.told_to_stop(pod) for pod in (first, second)))
    await asyncio.gather(*(world.stops(pod) for pod in (first, second)))
    await world.reaches(run, "Suspended")
    await world.edit(run, suspend=False, gpus=2)
    for _ in range(2):
        await world.trains(run)
    await world.reaches(run, "Succeeded")
    assert (await world.status(run, namespace=FORBIDDEN)).get("observedGeneration") == 0, "nobody has written a status"
    assert not await world.jobs(run, namespace=FORBIDDEN)


@pytest.mark.parametrize("role", ["view", "edit", "admin"])
def test_the_clusters_own_roles_hold_for_runs(control_plane: real.ControlPlane, role: str) -> None:
    """Aggregation is the work of a controller that does not run here: the rules themselves are looked at."""
    done = control_plane.kubectl(
        "get", "clusterroles", "-l", f"rbac.authorization.k8s.io/aggregate-to-{role}=true", "-o", "json"
    )
    rules = [rule for found in json.loads(done.stdout)["items"] for rule in found["rules"] or ()]
    mine = [rule for rule in rules if "finetune.dev" in rule.get("apiGroups", ())]
    verbs = {verb for rule in mine for verb in rule["verbs"]}
    assert {"get", "list", "watch"} <= verbs
    assert ("create" in verbs) == (role != "view")
    written = {
        resource for rule in mine if set(rule["verbs"]) - {"get", "list", "watch"} for resource in rule["resources"]
    }
    assert written <= {"teacherfinetunes"}, "the status is the operator's alone"


def test_a_tenant_forges_no_status_and_reaches_no_other_namespace(
    control_plane: real.ControlPlane, tmp_path: Path
) -> None:
    """With a token that has the right to edit runs in one namespace."""
    for space in ("tenant", "neighbour"):
        control_plane.kubectl("create", "namespace", space)
        object_of = ["apply", "-n", space, "-f", "-"]
        done = control_plane.kubectl(*object_of, stdin=json.dumps(TENANTS_OBJECT))
        assert done.returncode == 0, done.stderr
    control_plane.kubectl("create", "serviceaccount", "tenant", "-n", "tenant")
    for role in ("view", "edit"):
        bind = ["create", "rolebinding", role, f"--clusterrole={OPERATOR}-{role}", "--serviceaccount=tenant:tenant"]
        assert control_plane.kubectl(*bind, "-n", "tenant").returncode == 0
    token = token_of(control_plane, "tenant", "tenant")
    access = real.Access(control_plane.access.url, control_plane.access.authority, token)
    config = access.kubeconfig(tmp_path / "config")
    edit = ("patch", "tft", "run", "--type=merge", "-p")
    assert real.kubectl(config, *edit, '{"spec": {"suspend": true}}', "-n", "tenant").returncode == 0
    for arguments in (
        (*edit, '{"status": {"runId": "forged"}}', "--subresource=status", "-n", "tenant"),
        (*edit, '{"spec": {"suspend": true}}', "-n", "neighbour"),
        ("get", "tft", "-n", "neighbour"),
        ("delete", "tft", "run", "-n", "neighbour"),
        ("get", "secrets", "-n", "tenant"),
        ("get", "jobs", "-n", OPERATOR),
    ):
        done = real.kubectl(config, *arguments)
        assert done.returncode != 0, arguments
        assert "forbidden" in done.stderr.lower(), (arguments, done.stderr)


TENANTS_OBJECT = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "TeacherFineTune",
    "metadata": {"name": "run"},
    "spec": {"dataset": {"annotations": "s3://data/a.json"}, "output": "s3://models/"},
}
