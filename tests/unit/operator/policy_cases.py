"""What an installation allows, what an object asks for, and what is said against it; nothing where it is allowed.

The operator and the ValidatingAdmissionPolicy of the chart are both tried with these, in the namespace ``vision``.
"""

from __future__ import annotations

from typing import Any


def required(*expressions: dict[str, Any], field: str = "matchExpressions") -> dict[str, Any]:
    terms = {"nodeSelectorTerms": [{field: list(expressions)}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def preferred(expression: dict[str, Any]) -> dict[str, Any]:
    term = {"weight": 1, "preference": {"matchExpressions": [expression]}}
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}


ZONE_A = {"key": "zone", "operator": "In", "values": ["a"]}
ZONE_AB = {"key": "zone", "operator": "In", "values": ["a", "b"]}
NOT_B = {"key": "zone", "operator": "NotIn", "values": ["b"]}

CASES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    # Service accounts: also of those that name none, and by namespace.
    ({"serviceAccounts": ["trainer"]}, {"serviceAccountName": "trainer"}, ""),
    ({"serviceAccounts": ["trainer"]}, {"serviceAccountName": "admin"}, "spec.serviceAccountName: admin"),
    ({"serviceAccounts": ["trainer"]}, {}, "spec.serviceAccountName: default, since none is named,"),
    ({"serviceAccounts": ["default"]}, {}, ""),
    ({"serviceAccounts": ["vision/*"]}, {"serviceAccountName": "any"}, ""),
    ({"serviceAccounts": ["robots/*"]}, {"serviceAccountName": "any"}, "in namespace vision"),
    ({"serviceAccounts": []}, {}, "it allows none"),
    # Tolerations: one that leaves something open asks for all of it.
    ({"tolerations": []}, {"tolerations": []}, ""),
    ({"tolerations": []}, {"tolerations": [{"key": "gpu", "operator": "Exists"}]}, "spec.tolerations: gpu=*:*"),
    ({"tolerations": ["gpu"]}, {"tolerations": [{"key": "gpu", "operator": "Exists"}]}, ""),
    ({"tolerations": ["gpu"]}, {"tolerations": [{"key": "gpu", "value": "a", "effect": "NoSchedule"}]}, ""),
    ({"tolerations": ["gpu"]}, {"tolerations": [{"operator": "Exists"}]}, "spec.tolerations: *=*:*"),
    ({"tolerations": ["g*"]}, {"tolerations": [{"operator": "Exists"}]}, "spec.tolerations: *=*:*"),
    ({"tolerations": ["*"]}, {"tolerations": [{"operator": "Exists"}]}, ""),
    ({"tolerations": ["gpu=a"]}, {"tolerations": [{"key": "gpu", "operator": "Exists"}]}, "gpu=*:*"),
    ({"tolerations": ["gpu=a"]}, {"tolerations": [{"key": "gpu", "value": "a"}]}, ""),
    ({"tolerations": ["gpu:NoSchedule"]}, {"tolerations": [{"key": "gpu", "value": "a"}]}, "gpu=a:*"),
    (
        {"tolerations": ["gpu:NoSchedule"]},
        {"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]},
        "",
    ),
    ({"tolerations": ["*:NoSchedule"]}, {"tolerations": [{"operator": "Exists", "effect": "NoExecute"}]}, "NoExecute"),
    # The taint of the GPU resource is tolerated without saying so: its name is the user's.
    ({"tolerations": []}, {}, ""),
    ({"tolerations": []}, {"gpuResourceName": "nvidia.com/mig-3g.40gb"}, ""),
    (
        {"tolerations": ["gpu"]},
        {"gpuResourceName": "node-role.kubernetes.io/control-plane"},
        "spec.gpuResourceName: node-role.kubernetes.io/control-plane=*:*",
    ),
    ({"tolerations": ["amd.com/gpu"]}, {"gpuResourceName": "amd.com/gpu"}, ""),
    ({"tolerations": ["amd.com/gpu:NoSchedule"]}, {"gpuResourceName": "amd.com/gpu"}, "amd.com/gpu=*:*"),
    # Nodes: by selector or by affinity.
    ({"nodeSelectors": ["zone=a"]}, {"nodeSelector": {"zone": "a"}}, ""),
    ({"nodeSelectors": ["zone=a"]}, {"nodeSelector": {"zone": "b"}}, "spec.nodeSelector: zone=b"),
    ({"nodeSelectors": ["zone"]}, {"nodeSelector": {"zone": "b"}}, ""),
    ({"nodeSelectors": ["zone"]}, {"nodeSelector": {"zone": "b", "pool": "x"}}, "pool=x"),
    ({"nodeSelectors": ["zone=a"]}, {"affinity": required(ZONE_A)}, ""),
    ({"nodeSelectors": ["zone=a"]}, {"affinity": required(ZONE_AB)}, "spec.affinity.nodeAffinity: zone=b"),
    ({"nodeSelectors": ["zone=a"]}, {"affinity": preferred(ZONE_AB)}, "zone=b"),
    ({"nodeSelectors": ["zone=a"]}, {"affinity": required(NOT_B)}, "zone=*"),
    ({"nodeSelectors": ["zone"]}, {"affinity": required(NOT_B)}, ""),
    (
        {"nodeSelectors": ["zone"]},
        {"affinity": required({"key": "metadata.name", "operator": "In", "values": ["n1"]}, field="matchFields")},
        "metadata.name=n1",
    ),
    ({"nodeSelectors": []}, {"affinity": {"nodeAffinity": "nonsense", "podAffinity": []}}, ""),
    ({"nodeSelectors": []}, {"affinity": required("nonsense")}, "None=*"),  # type: ignore[arg-type]
    # Classes.
    ({"priorityClasses": ["batch-*"]}, {"priorityClassName": "batch-low"}, ""),
    ({"priorityClasses": ["batch-*"]}, {"priorityClassName": "system-node-critical"}, "spec.priorityClassName"),
    ({"priorityClasses": []}, {}, ""),
    ({"runtimeClasses": ["nvidia"]}, {"runtimeClassName": "nvidia"}, ""),
    ({"runtimeClasses": ["nvidia"]}, {"runtimeClassName": "unconfined"}, "spec.runtimeClassName: unconfined"),
    # In one stage.
    (
        {"tolerations": ["gpu"]},
        {"stages": [{"name": "Sam", "tolerations": [{"operator": "Exists"}]}]},
        "spec.stages[Sam].tolerations: *=*:*",
    ),
    (
        {"nodeSelectors": ["zone"]},
        {"stages": [{"name": "Inspection", "nodeSelector": {"pool": "x"}}]},
        "spec.stages[Inspection].nodeSelector: pool=x",
    ),
    ({"nodeSelectors": ["zone"]}, {"stages": [{"name": "Sam", "affinity": required(NOT_B)}]}, ""),
    (
        {"nodeSelectors": ["zone=a"]},
        {"stages": [{"name": "Sam", "affinity": required(NOT_B)}]},
        "spec.stages[Sam].affinity.nodeAffinity: zone=*",
    ),
    ({"priorityClasses": ["low"]}, {"stages": [{"name": "Sam", "priorityClassName": "high"}]}, "spec.stages[Sam]"),
    ({"runtimeClasses": []}, {"stages": [{"name": "Sam", "runtimeClassName": "runc"}]}, "spec.stages[Sam]"),
    ({"images": ["reg/*"]}, {"pod": {"image": "other/tr:1"}}, "spec.pod.image"),
    ({"images": ["reg/*"]}, {"stages": [{"name": "Sam", "image": "other/tr:1"}]}, "spec.stages[Sam].image"),
    ({"images": ["reg/*"]}, {"pod": {"image": "reg/team/tr:1"}}, ""),
    # Disks.
    (
        {"scratch": "1Ti"},
        {"pod": {"volumes": [{"name": "big", "emptyDir": {"sizeLimit": "2Ti"}}]}},
        "spec.pod.volumes: big: 2Ti",
    ),
    ({"scratch": "1Ti"}, {"pod": {"volumes": [{"name": "big", "emptyDir": {}}]}}, ""),
    ({"scratch": "1Ti"}, {"scratch": {"size": "1024Gi"}}, ""),
    (
        {"scratch": "1Ti"},
        {"scratch": {"size": "2e12"}},
        "spec.scratch.size: 2e12 is not allowed by this installation: it allows at most 1Ti",
    ),
    ({"scratch": "1Ti"}, {"scratch": {"claimName": "big"}}, ""),
    ({}, {"scratch": {"size": "9Ei"}, "serviceAccountName": "any", "tolerations": [{"operator": "Exists"}]}, ""),
]
