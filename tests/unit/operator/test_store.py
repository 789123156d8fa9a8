"""What the watches have shown, whatever order and however often they show it in."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tft_objects import NAME, NAMESPACE, body_of, job_of, pod_of

from teacher_operator.api.names import RUN, Key
from teacher_operator.runtime.store import LAST_APPLIED, Standing, Store, key_of, trimmed, version

KEY = Key(NAMESPACE, NAME)


def versioned(body: dict[str, Any], number: int | str, **metadata: Any) -> dict[str, Any]:
    result = copy.deepcopy(body)
    result["metadata"] |= {"resourceVersion": str(number), **metadata}
    return result


def names(bodies: list[dict[str, Any]]) -> list[str]:
    return [body["metadata"]["name"] for body in bodies]


# Versions.


def test_the_newest_version_is_kept() -> None:
    store, body = Store(), body_of()
    assert store.put("TeacherFineTune", versioned(body, 9))
    assert store.put("TeacherFineTune", versioned(body, 10, generation=2)), "versions are numbers, not text"
    assert not store.put("TeacherFineTune", versioned(body, 10, generation=3)), "it is known"
    assert not store.put("TeacherFineTune", versioned(body, 9)), "it is older"
    kept = store.get("TeacherFineTune", KEY)
    assert kept is not None
    assert kept["metadata"]["generation"] == 2


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1))
def test_the_newest_version_is_kept_in_any_order_of_arrival(numbers: list[int]) -> None:
    store = Store()
    for number in numbers:
        before = store.get("Job", Key(NAMESPACE, f"{NAME}-sam"))
        news = store.put("Job", versioned(job_of(), number))
        assert news == (before is None or number > version(before))
    known = store.get("Job", Key(NAMESPACE, f"{NAME}-sam"))
    assert known is not None
    assert version(known) == max(numbers)


def test_a_version_that_is_no_number_is_older_than_all() -> None:
    assert [version(versioned(body_of(), text)) for text in ("", "abc", "7")] == [0, 0, 7]
    assert version({"metadata": {}}) == 0


# Objects of the same name.


def test_a_recreated_object_replaces_the_old_one() -> None:
    store, body = Store(), body_of()
    store.put("TeacherFineTune", versioned(body, 100))
    store.put("TeacherFineTune", versioned(body, 200, uid="new"))
    kept = store.get("TeacherFineTune", KEY)
    assert kept is not None
    assert kept["metadata"]["uid"] == "new"
    store.remove("TeacherFineTune", versioned(body, 150))
    assert store.get("TeacherFineTune", KEY) is not None, "it is the old one that is gone"
    store.remove("TeacherFineTune", versioned(body, 300, uid="new"))
    assert store.get("TeacherFineTune", KEY) is None


def test_jobs_of_an_earlier_object_of_the_name_are_not_those_of_this_one() -> None:
    store, body = Store(), body_of()
    store.put("Job", job_of())
    assert names(store.jobs_of(body)) == [f"{NAME}-sam"]
    assert store.jobs_of(versioned(body, 1, uid="new")) == []


def test_pods_of_an_earlier_job_of_the_name_are_not_those_of_this_one() -> None:
    store = Store()
    store.put("Pod", pod_of("a"))
    assert names(store.pods_of(job_of())) == ["a"]
    assert store.pods_of(versioned(job_of(), 1, uid="new")) == []


def test_objects_of_other_owners_are_ignored_even_with_our_labels() -> None:
    store, job = Store(), job_of()
    job["metadata"]["ownerReferences"] = [{"kind": "CronJob", "uid": "other", "controller": True}]
    store.put("Job", job)
    assert store.jobs_of(body_of()) == []


# Children.


def test_children_are_found_by_their_object() -> None:
    store = Store()
    for name in ("inspect", "sam"):
        store.put("Job", job_of(f"{NAME}-{name}"))
    other = job_of("pallets-sam")
    other["metadata"]["labels"][RUN] = "pallets"
    store.put("Job", other)
    store.put("Job", versioned(job_of(f"{NAME}-inspect"), 201))
    assert sorted(names(store.jobs_of(body_of()))) == [f"{NAME}-inspect", f"{NAME}-sam"]
    assert store.count("Job") == 3


def test_children_of_the_same_name_elsewhere_are_others() -> None:
    store = Store()
    store.put("Job", versioned(job_of(), 1, namespace="elsewhere"))
    assert store.jobs_of(body_of()) == []


def test_pods_are_oldest_first() -> None:
    store = Store()
    for name, created in (("c", 30), ("a", 20), ("b", 20), ("d", 10)):
        store.put("Pod", pod_of(name, created=created))
    assert names(store.pods_of(job_of())) == ["d", "a", "b", "c"]


def test_a_child_that_is_gone_is_no_child() -> None:
    store = Store()
    store.put("Job", job_of())
    store.put("Pod", pod_of("a"))
    store.remove("Pod", pod_of("a"))
    store.remove("Pod", pod_of("a"))
    store.remove("Job", job_of())
    assert store.jobs_of(body_of()) == store.pods_of(job_of()) == []
    assert store.count("Job") == store.count("Pod") == 0


def test_a_child_whose_label_was_changed_by_hand_is_the_others_and_goes_without_a_trace() -> None:
    store, job = Store(), job_of()
    store.put("Job", job)
    moved = versioned(job, 201)
    moved["metadata"]["labels"][RUN] = "pallets"
    store.put("Job", moved)
    store.remove("Job", moved)
    assert store.jobs_of(body_of()) == []


def test_a_job_of_another_object_may_take_the_name_of_one_whose_end_was_missed() -> None:
    store, job = Store(), job_of()
    store.put("Job", job)
    taken = versioned(job, 300, uid="new")
    taken["metadata"]["labels"] = {}
    store.put("Job", taken)
    assert store.jobs_of(body_of()) == []
    store.remove("Job", taken)
    assert store.jobs_of(body_of()) == []


def test_pods_that_run_are_found_without_going_through_all() -> None:
    store = Store()
    for name, phase in (("a", "Running"), ("b", "Pending"), ("c", "Running"), ("d", "Running")):
        store.put("Pod", pod_of(name, phase=phase))
    store.put("Pod", versioned(pod_of("c", phase="Succeeded"), 10**6))
    store.remove("Pod", pod_of("d", phase="Running"))
    assert names(store.running()) == ["a"]


def test_objects_are_counted_by_how_they_stand() -> None:
    store = Store(lambda body: Standing(str(body["status"].get("state", "new"))))
    space = body_of()["metadata"]["namespace"]
    for number, state in enumerate(("new", "done", "done")):
        store.put("TeacherFineTune", body_of(name=f"o{number}") | {"status": {"state": state}})
    assert store.standings() == {(space, Standing("new")): 1, (space, Standing("done")): 2}
    store.put("TeacherFineTune", versioned(body_of(name="o0") | {"status": {"state": "done"}}, 10**6))
    store.remove("TeacherFineTune", body_of(name="o1"))
    assert store.standings() == {(space, Standing("done")): 2}


def test_changing_a_returned_object_does_not_change_the_store() -> None:
    store, job = Store(), job_of()
    store.put("Job", job)
    (taken,) = store.jobs_of(body_of())
    taken["spec"]["backoffLimit"] = 99
    assert store.jobs_of(body_of())[0]["spec"]["backoffLimit"] == job["spec"]["backoffLimit"]


MOVES = st.tuples(
    st.sampled_from(["put", "remove"]),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["uid-1", "uid-2"]),
    st.sampled_from(["forklifts", "pallets", None]),
)


@settings(deadline=None)
@given(st.lists(MOVES, max_size=30))
def test_the_index_of_children_matches_the_stored_objects(moves: list[tuple[str, str, str, str | None]]) -> None:
    store, there = Store(), {}
    for number, (move, name, uid, run) in enumerate(moves, start=1):
        job = versioned(job_of(name), number, uid=f"{name}-{uid}")
        job["metadata"]["labels"] = {RUN: run} if run else {}
        if move == "put":
            store.put("Job", job)
            there[name] = (uid, run)
        else:
            store.remove("Job", job)
            if name in there and there[name][0] == uid:
                del there[name]
        for of in ("forklifts", "pallets"):
            found = {job["metadata"]["name"] for job in store.jobs_of(body_of(name=of))}
            assert found == {name for name, (_, run) in there.items() if run == of}


def test_a_late_response_restores_no_deleted_object() -> None:
    store, job = Store(), versioned(job_of(), 5, uid="first")
    store.put("Job", job)
    store.remove("Job", versioned(job, 7))
    assert not store.put("Job", versioned(job, 6)), "it was on its way when the Job went"
    assert store.put("Job", versioned(job, 8, uid="second"))
    store.remove("Job", versioned(job, 10, uid="third"))
    assert not store.put("Job", versioned(job, 9, uid="third")), "it was seen to go before it was seen at all"
    assert store.count("Job") == 1
    kept = store.get("Job", key_of(job))
    assert kept is not None
    assert kept["metadata"]["uid"] == "second"


def test_an_object_that_loses_and_regains_its_label_is_known_again() -> None:
    """Without its label an object is gone from our watches."""
    store, job = Store(), job_of()
    store.put("Job", versioned(job, 5))
    store.remove("Job", versioned(job, 6))
    assert store.put("Job", versioned(job, 7))


def test_an_object_whose_end_was_missed_does_not_come_back() -> None:
    store, job = Store(), job_of()
    store.put("Job", versioned(job, 5, uid="first"))
    store.put("Job", versioned(job, 7, uid="second"))
    assert not store.put("Job", versioned(job, 6, uid="first"))
    assert not store.put("Job", versioned(job, 6, uid="third")), "it is older than what has its name"


# What is kept.


def test_fields_that_no_decision_reads_are_not_stored() -> None:
    job = job_of() | {"apiVersion": "batch/v1", "kind": "Job"}
    job["spec"]["template"] = {"spec": {"containers": []}}
    job["metadata"] |= {
        "managedFields": [{"manager": "x"}],
        "annotations": {LAST_APPLIED: "{}", "finetune.dev/platform-hash": "abc"},
    }
    kept = trimmed("Job", job)
    assert "template" not in kept["spec"]
    assert kept["spec"]["backoffLimit"] == 3
    assert "managedFields" not in kept["metadata"]
    assert kept["metadata"]["annotations"] == {"finetune.dev/platform-hash": "abc"}
    assert job["spec"]["template"], "the caller's own is left as it is"


def test_node_and_resource_limits_of_a_pod_are_stored() -> None:
    pod = pod_of("a")
    pod["spec"]["containers"][0] |= {"env": [{"name": "X", "value": "y"}], "command": ["teacher"]}
    pod["spec"] |= {"volumes": [{}], "tolerations": [{}]}
    kept = trimmed("Pod", pod)
    (container,) = kept["spec"]["containers"]
    assert set(container) == {"name", "image", "resources"}
    assert set(kept["spec"]) == {"nodeName", "containers"}
    assert kept["status"] == pod["status"]


def test_the_whole_spec_of_an_object_is_kept() -> None:
    body = body_of()
    kept = trimmed("TeacherFineTune", body)
    assert kept["spec"] == body["spec"]
    assert kept["status"] == {}


def test_an_object_without_a_spec_or_status_is_read_too() -> None:
    bare = {"metadata": {"name": "a", "namespace": "b", "uid": "c"}}
    assert trimmed("Pod", bare) == {
        "metadata": bare["metadata"],
        "spec": {"nodeName": None, "containers": []},
        "status": {},
    }
    assert key_of(bare) == Key("b", "a")
    assert str(key_of(bare)) == "b/a"
