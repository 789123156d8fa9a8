"""The operator may do what it does, and nothing else; and the page says so."""

from __future__ import annotations

import re
from typing import Any

import pytest
from loops import nonempty

from .conftest import ROOT, Object, Render, objects_of, one

OPERATOR = {
    ("finetune.dev", "teacherfinetunes"): {"get", "list", "watch"},
    ("finetune.dev", "teacherfinetunes/status"): {"get", "patch"},
    ("finetune.dev", "teacherfinetunes/finalizers"): {"update"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "patch", "delete"},
    ("", "pods"): {"get", "list", "watch"},
    ("", "pods/log"): {"get"},
    ("", "configmaps"): {"get", "create", "patch"},
    ("", "services"): {"get", "create", "patch"},
    ("", "events"): {"create", "list"},
}
NAMESPACED = {"scope": {"namespaces": ["vision", "robots"]}, "crds": {"enabled": False}, "rbac": {"aggregate": False}}
ELECTED = {"leaderElection": {"enabled": True, "leaseName": "mine"}}


FENCED = {"runNetworkPolicy": {"enabled": True}}
AUTHENTICATED = {
    "metrics": {
        "authentication": {
            "enabled": True,
            "subjects": [
                {"kind": "ServiceAccount", "name": "prometheus", "namespace": "monitoring"},
                {"kind": "Group", "name": "sre"},
            ],
        }
    }
}


def rights(role: Object) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        for group in rule.get("apiGroups", ()):
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def roles_of(objects: list[Object]) -> list[Object]:
    return [thing for thing in objects if thing["kind"] in ("Role", "ClusterRole")]


def test_the_operator_may_do_what_it_needs_in_all_namespaces(render: Render) -> None:
    objects = render()
    role = one(objects, "ClusterRole", "finetune")
    assert rights(role) == OPERATOR
    binding = one(objects, "ClusterRoleBinding")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    account = one(objects, "ServiceAccount", "finetune")["metadata"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    ]


def test_network_policies_are_made_only_where_runs_have_some(render: Render) -> None:
    role = one(render(FENCED), "ClusterRole", "finetune")
    assert rights(role) == OPERATOR | {("networking.k8s.io", "networkpolicies"): {"get", "create", "patch"}}


def test_an_install_for_some_namespaces_has_nothing_that_is_cluster_wide(render: Render) -> None:
    objects = render(NAMESPACED)
    assert not [thing for thing in objects if thing["kind"].startswith("Cluster") or "Definition" in thing["kind"]]
    for namespace in ("vision", "robots"):
        here = [thing for thing in objects if thing["metadata"]["namespace"] == namespace]
        assert rights(one(here, "Role")) == OPERATOR
        binding = one(here, "RoleBinding")
        assert binding["roleRef"] == {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role",
            "name": one(here, "Role")["metadata"]["name"],
        }
        assert binding["subjects"][0]["namespace"] == "ops"


def test_with_namespaces_the_cluster_roles_are_those_of_users_alone(render: Render) -> None:
    objects = render({"scope": {"namespaces": ["vision"]}})
    names = {thing["metadata"]["name"].rsplit("-", 1)[1] for thing in objects if thing["kind"] == "ClusterRole"}
    assert names == {"view", "edit"}
    assert not [thing for thing in objects if thing["kind"] == "ClusterRoleBinding"]


def test_the_lease_is_touched_only_with_leader_election_and_only_that_one(render: Render) -> None:
    assert not [role for role in roles_of(render()) if ("coordination.k8s.io", "leases") in rights(role)]
    role = one(render(ELECTED), "Role", "-leader")
    assert role["metadata"]["namespace"] == "ops"
    assert rights(role) == {("coordination.k8s.io", "leases"): {"create", "get", "update"}}
    named = {tuple(rule["verbs"]): rule.get("resourceNames") for rule in role["rules"]}
    assert named == {("create",): None, ("get", "update"): ["mine"]}


@pytest.mark.parametrize("values", [NAMESPACED, {}])
def test_reviews_are_requested_only_where_the_metrics_want_a_token(render: Render, values: dict[str, Any]) -> None:
    assert not [thing for thing in render(values) if thing["metadata"]["name"].endswith(("-reviews", "-metrics"))]
    objects = render({**values, **AUTHENTICATED})
    assert rights(one(objects, "ClusterRole", "-reviews")) == {
        ("authentication.k8s.io", "tokenreviews"): {"create"},
        ("authorization.k8s.io", "subjectaccessreviews"): {"create"},
    }
    assert one(objects, "ClusterRoleBinding", "-reviews")["subjects"][0]["namespace"] == "ops"
    assert one(objects, "ClusterRole", "-metrics")["rules"] == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
    assert one(objects, "ClusterRoleBinding", "-metrics")["subjects"] == [
        {"kind": "ServiceAccount", "name": "prometheus", "namespace": "monitoring"},
        {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "sre"},
    ]


@pytest.mark.parametrize(
    "values", [{}, NAMESPACED, ELECTED, AUTHENTICATED], ids=["cluster", "namespaces", "elected", "authenticated"]
)
def test_no_role_reaches_secrets_or_into_pods_or_anything_whole(render: Render, values: dict[str, Any]) -> None:
    for role in nonempty(roles_of(render(values))):
        for (group, resource), verbs in rights(role).items():
            assert "*" not in {group, resource} | verbs
            assert resource.split("/")[0] not in {
                "secrets",
                "serviceaccounts",
                "nodes",
                "namespaces",
                "customresourcedefinitions",
                "roles",
                "clusterroles",
                "rolebindings",
                "clusterrolebindings",
            }
            assert resource not in {"pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers"}
            assert not verbs & {"escalate", "bind", "impersonate"}


def test_users_get_rights_over_runs_with_the_roles_that_they_have(render: Render) -> None:
    objects = render()
    view, edit = one(objects, "ClusterRole", "-view"), one(objects, "ClusterRole", "-edit")
    aggregate = "rbac.authorization.k8s.io/aggregate-to-"
    assert {name for name in view["metadata"]["labels"] if name.startswith(aggregate)} == {
        aggregate + role for role in ("view", "edit", "admin")
    }
    assert {name for name in edit["metadata"]["labels"] if name.startswith(aggregate)} == {
        aggregate + role for role in ("edit", "admin")
    }
    assert rights(edit) == {
        ("finetune.dev", "teacherfinetunes"): {"create", "update", "patch", "delete", "deletecollection"}
    }
    assert {resource for _, resource in rights(view)} == {"teacherfinetunes", "teacherfinetunes/status"}
    assert not [
        role for role in roles_of(render({"rbac": {"aggregate": False}})) if role["metadata"]["name"].endswith("view")
    ]


def test_the_test_may_send_one_object(render: Render) -> None:
    role = one(render(), "Role", "-test")
    assert rights(role) == {("finetune.dev", "teacherfinetunes"): {"create"}}
    assert role["metadata"]["namespace"] == "ops"


def test_without_rbac_no_role_is_made(render: Render) -> None:
    made = render({"rbac": {"create": False, "aggregate": False}, "leaderElection": {"enabled": True}})
    assert not [thing for thing in made if "Role" in thing["kind"]]


def test_every_rule_has_its_reason(generate: dict[str, Any]) -> None:
    rendered = generate["render"]({"leaderElection": {"enabled": True}})
    seen = 0
    for path, text in nonempty(rendered.items()):
        for part in re.split(r"^---$", text, flags=re.MULTILINE) if path.endswith(".yaml") else ():
            for thing in roles_of(objects_of(part)):
                rules = generate["rules_with_reasons"](part)
                assert [rule for rule, _ in rules] == thing["rules"]
                assert all(len(reason) > 20 for _, reason in rules)
                seen += 1
    assert seen == 5


def test_the_page_lists_every_rule(render: Render) -> None:
    page = (ROOT / "docs" / "rbac.md").read_text()
    rows = [
        line for line in page.splitlines() if line.startswith("| ") and "---" not in line and "API group" not in line
    ]
    assert all(len(row.split(" | ")) == 4 for row in nonempty(rows))
    listed = [
        (re.findall(r"`([a-z/]+)`", row.split(" | ")[1].split(" named ")[0]), row.split(" | ")[2]) for row in rows
    ]
    there = [
        (rule["resources"], ", ".join(rule["verbs"]))
        for role in roles_of(render({**ELECTED, **AUTHENTICATED, **FENCED}))
        for rule in role["rules"]
        if "resources" in rule
    ]
    assert sorted(map(str, listed)) == sorted(map(str, there))


def test_the_namespaced_manifest_has_nothing_that_is_cluster_wide() -> None:
    objects = objects_of((ROOT / "config" / "install-namespaced.yaml").read_text())
    assert {thing["metadata"]["namespace"] for thing in objects} == {"teacher-finetune"}
    assert rights(one(objects, "Role")) == OPERATOR
