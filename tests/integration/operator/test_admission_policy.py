"""The ValidatingAdmissionPolicy of the chart, on a real API server: what it takes and refuses, and with which words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import control_plane as real
import pytest
import pytest_asyncio
import yaml
from places import ROOT, admin, chart
from policy_cases import CASES
from world import MERGE, RUNS, Api, Body, RefusedError

pytestmark = pytest.mark.asyncio

POLICIES = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
MINIMAL = {"dataset": {"annotations": "s3://data/a.json"}, "output": "s3://models/"}
PROBE = {"runtimeClassName": "probe"}
"""Allowed by no policy here: one that refuses it is in effect."""

SECONDS = 60.0

Case = tuple[dict[str, Any], dict[str, Any], str]


def _values(allow: Mapping[str, Any], namespace: str) -> dict[str, Any]:
    return {
        "fullnameOverride": namespace,
        "allow": {"runtimeClasses": [], **json.loads(json.dumps(dict(allow)).replace("vision/", f"{namespace}/"))},
        "scratchSize": "1Mi",
        "admissionPolicy": {
            "enabled": True,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        },
    }


def _policies(values: dict[str, Any]) -> list[Body]:
    return [one for one in yaml.safe_load_all(chart(values)) if one and one["kind"] in POLICIES]


def _object(spec: Mapping[str, Any], name: str = "probe") -> Body:
    head = {"apiVersion": "finetune.dev/v1alpha1", "kind": "TeacherFineTune", "metadata": {"name": name}}
    return head | {"spec": MINIMAL | spec}


async def _try(api: Api, namespace: str, spec: Mapping[str, Any]) -> str:
    """What is said against an object; nothing if it is taken. It is not kept."""
    try:
        path = f"{RUNS}/namespaces/{namespace}/teacherfinetunes"
        await api.call("POST", path, _object(spec), dryRun="All", fieldValidation="Strict")
    except RefusedError as error:
        if error.code != 403:
            raise
        return error.message
    return ""


async def _until_in_effect(api: Api, namespace: str) -> None:
    async with asyncio.timeout(SECONDS):
        while not await _try(api, namespace, PROBE):
            await asyncio.sleep(0.1)


@pytest_asyncio.fixture
async def api(control_plane: real.ControlPlane) -> AsyncIterator[Api]:
    async with admin(control_plane) as connected:
        yield connected


def _install(control_plane: real.ControlPlane, allowed: Mapping[str, Mapping[str, Any]]) -> None:
    """Namespaces, each with a policy of its own."""
    objects: list[Body] = []
    for namespace, lists in allowed.items():
        objects.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        objects += _policies(_values(lists, namespace))
    done = control_plane.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(objects))
    assert done.returncode == 0, done.stderr


def _kind(lists: Mapping[str, Any]) -> str:
    return "accounts" if "serviceAccounts" in lists else "others" if lists else "nothing"


def _shared(cases: Sequence[Case]) -> list[tuple[dict[str, Any], list[Case]]]:
    """Few policies for many cases: each has the lists of several that ask for different things.

    Every object has a service account, so that a list of these stands alone.
    """
    shared: list[tuple[dict[str, Any], list[Case]]] = []
    for case in cases:
        allowed = case[0]
        for lists, mine in shared:
            fits = all(lists.get(name, value) == value for name, value in allowed.items())
            if fits and _kind(lists) == _kind(allowed):
                lists.update(allowed)
                mine.append(case)
                break
        else:
            shared.append((dict(allowed), [case]))
    return shared


async def test_every_rule_takes_and_refuses(control_plane: real.ControlPlane, api: Api) -> None:
    cases = [case for case in CASES if "nonsense" not in json.dumps(case)]
    shared = {f"policy-{number}": one for number, one in enumerate(_shared(cases))}
    _install(control_plane, {namespace: lists for namespace, (lists, _) in shared.items()})
    await asyncio.gather(*(_until_in_effect(api, namespace) for namespace in shared))
    wrong = []
    for namespace, (lists, mine) in shared.items():
        for _, spec, expected in mine:
            said = await _try(api, namespace, spec)
            token = expected.replace("in namespace vision", f"x: {namespace}").partition(": ")[2].split(" ")[0]
            told = token in said and "by this installation: it allows" in said
            if bool(said) != bool(expected) or (said and not told):
                wrong.append((lists, spec, expected, said))
    assert wrong == []
    assert len({bool(expected) for _, _, expected in cases}) == 2


async def test_several_faults_of_several_places_are_reported(control_plane: real.ControlPlane, api: Api) -> None:
    _install(control_plane, {"policy-several": {"tolerations": ["gpu"], "images": [], "nodeSelectors": []}})
    await _until_in_effect(api, "policy-several")
    tolerations = [{"key": "a", "operator": "Exists"}, {"key": "gpu"}, {"key": "b", "value": "c"}]
    said = await _try(
        api,
        "policy-several",
        {"tolerations": tolerations, "stages": [{"name": "Sam", "tolerations": [{"operator": "Exists"}]}]},
    )
    assert "tolerations: a=*:*, b=c:*, *=*:* is not allowed by this installation: it allows gpu (tolerations)" in said
    said = await _try(api, "policy-several", {"pod": {"image": "a:1"}, "stages": [{"name": "Sam", "image": "b:1"}]})
    assert "image: a:1, b:1 is not allowed by this installation: it allows none (images)" in said


async def test_an_object_of_before_can_be_suspended_and_not_widened(control_plane: real.ControlPlane, api: Api) -> None:
    namespace = "policy-before"
    control_plane.kubectl("create", "namespace", namespace)
    path = f"{RUNS}/namespaces/{namespace}/teacherfinetunes"
    await api.call("POST", path, _object({"serviceAccountName": "admin", "suspend": True}, "before"))
    _install(control_plane, {namespace: {"serviceAccounts": ["trainer"]}})
    await _until_in_effect(api, namespace)
    for patch in ({"spec": {"suspend": False}}, {"metadata": {"labels": {"a": "b"}}}, {"spec": {"backoffLimit": 1}}):
        await api.call("PATCH", f"{path}/before", patch, content=MERGE)
    for spec in ({"nodeSelector": {"a": "b"}}, {"serviceAccountName": "other"}, {"tolerations": [{"key": "a"}]}):
        with pytest.raises(RefusedError, match="is not allowed by this installation: it allows trainer"):
            await api.call("PATCH", f"{path}/before", {"spec": spec}, content=MERGE)
    await api.call("PATCH", f"{path}/before", {"spec": {"serviceAccountName": "trainer"}}, content=MERGE)
    await api.call("DELETE", f"{path}/before")


async def test_the_plain_manifest_is_taken_and_allows_everything(control_plane: real.ControlPlane, api: Api) -> None:
    text = (ROOT / "config" / "admission-policy" / "admission-policy.yaml").read_text()
    done = control_plane.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=text)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower()
