"""What people see with kubectl, on the real API server."""

from __future__ import annotations

import json

import control_plane as real
import outcomes
import pytest
import yaml
from places import ROOT, make_namespace
from world import World, condition

from engine.spec import TeacherName

pytestmark = [pytest.mark.asyncio, pytest.mark.server_only]

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
async def test_examples_are_taken(control_plane: real.ControlPlane, path: str) -> None:
    done = control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(path), "-n", "default")
    assert done.returncode == 0, done.stderr
    done = control_plane.kubectl("create", "--dry-run=server", "--validate=strict", "-f", str(path), "-n", "default")
    assert done.returncode == 0, done.stderr


async def test_the_folder_of_examples_is_applied_as_a_whole(control_plane: real.ControlPlane) -> None:
    """Twice, as people do, and removed again. kubectl takes the YAML and JSON files of a folder, not of its folders."""
    await make_namespace(control_plane, "examples")
    folder = str(ROOT / "examples")
    for outcome in ("created", "unchanged"):
        done = control_plane.kubectl("apply", "--validate=strict", "-f", folder, "-n", "examples")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(outcome) == len(EXAMPLES)
    names = control_plane.kubectl("get", "tft", "-n", "examples", "-o", "name").stdout.split()
    assert len(names) == len(EXAMPLES)
    done = control_plane.kubectl("delete", "-f", folder, "-n", "examples", "--timeout=60s")
    assert done.returncode == 0, done.stderr
    assert not control_plane.kubectl("get", "tft", "-n", "examples", "-o", "name").stdout


async def test_paths_on_a_disk_are_for_local_runs_alone(control_plane: real.ControlPlane) -> None:
    done = control_plane.kubectl("apply", "--dry-run=server", "-f", str(ROOT / "examples" / "local" / "run.yaml"))
    assert done.returncode != 0
    assert "spec.output" in done.stderr


@pytest.mark.parametrize("path", ["config/install.yaml", "config/install-namespaced.yaml"])
async def test_manifests_are_taken(control_plane: real.ControlPlane, path: str) -> None:
    """As the documentation says, over what the chart has installed; the namespace is there."""
    done = control_plane.kubectl(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", str(ROOT / path)
    )
    assert done.returncode == 0, done.stderr


async def test_every_field_is_explained(control_plane: real.ControlPlane) -> None:
    done = control_plane.kubectl("explain", "tft.spec.storage.credentialsSecretRef")
    assert "Secret with access keys" in done.stdout, done.stderr
    done = control_plane.kubectl("explain", "teacherfinetune", "--recursive")
    assert "pendingDeadlineSeconds" in done.stdout
    for field in ("spec.teachers.lora.rank", "spec.nodeSelector", "status.teachers.progress.secondsLeft"):
        done = control_plane.kubectl("explain", f"tft.{field}")
        assert "DESCRIPTION" in done.stdout
        assert "<empty>" not in done.stdout


async def test_the_columns_say_how_a_run_stands(control_plane: real.ControlPlane, world: World) -> None:
    run = "columns"
    await world.create(run)
    await world.inspects(run, outcomes.BOTH)
    pod = await world.starts(run, TeacherName.GROUNDING_DINO)
    await world.says(pod, outcomes.step(40, best_ap=0.31))

    async def progressed() -> bool:
        return bool((await world.status(run)).get("summary", {}).get("progress") == "20%")

    await world.until(progressed, "of two teachers one is at 40%")

    def columns(*more: str) -> dict[str, str]:
        done = control_plane.kubectl("get", "tft", run, "-n", world.namespace, *more)
        heads, values = done.stdout.splitlines()
        starts = [heads.index(head) for head in heads.split()]
        return {
            heads[at:].split()[0]: values[at : starts[number + 1] if number + 1 < len(starts) else None].strip()
            for number, at in enumerate(starts)
        }

    seen = columns()
    assert list(seen) == ["NAME", "TEACHERS", "STATE", "PROGRESS", "LEFT", "MAP", "AGE"]
    assert seen["TEACHERS"] == "GroundingDino,Sam"
    assert (seen["STATE"], seen["PROGRESS"], seen["LEFT"], seen["MAP"]) == ("Training", "20%", "", "0.25 -> 0.31")
    wide = columns("-o", "wide")
    assert wide["NODE"] == world.node
    assert wide["URI"] == outcomes.folder(run)
    assert "GroundingDino" in wide["MESSAGE"]
    for short in ("tft", "teacherfinetune", "finetune", "all"):
        done = control_plane.kubectl("get", short, "-n", world.namespace, "-o", "name")
        assert f"teacherfinetune.finetune.dev/{run}" in done.stdout, short


async def test_describe_says_why_a_run_failed(control_plane: real.ControlPlane, world: World) -> None:
    run = "described"
    await world.create(run, backoffLimit=0)
    await world.inspects(run)
    pod = await world.starts(run)
    await world.says(pod, "loading", "RuntimeError: a line of the log")
    await world.fails(pod, 44, message=outcomes.failure(44, "CUDA out of memory: lower the batch size"))
    await world.reaches(run, "OutOfGpuMemory")

    async def told() -> bool:
        return any(event["type"] == "Warning" for event in await world.events(run))

    await world.until(told, "a warning")
    text = control_plane.kubectl("describe", "tft", run, "-n", world.namespace).stdout
    said = " ".join(text.split())  # kubectl pads each column to its widest cell
    for words in (
        "CUDA out of memory: lower the batch size",
        "Exit Code: 44",
        f"Node: {world.node}",
        "RuntimeError: a line of the log",
        "Warning OutOfGpuMemory",
    ):
        assert words in said, text


async def test_kubectl_waits_for_the_end(control_plane: real.ControlPlane, world: World) -> None:
    run = "awaited"
    await world.create(run)
    await world.inspects(run)
    await world.trains(run)
    done = control_plane.kubectl(
        "wait", "tft", run, "-n", world.namespace, "--for=condition=Succeeded", "--timeout=60s"
    )
    assert done.returncode == 0, done.stderr
    body = json.loads(control_plane.kubectl("get", "tft", run, "-n", world.namespace, "-o", "json").stdout)
    assert condition(body["status"], "Succeeded")["status"] == "True"
    assert not body["metadata"].get("finalizers")
    assert "annotations" not in body["metadata"]


async def test_an_object_that_was_read_can_be_applied_as_it_is(control_plane: real.ControlPlane, world: World) -> None:
    """As backups are, and by people who get, edit and apply."""
    run = "again"
    await world.create(run)
    await world.inspects(run)
    await world.trains(run)
    await world.reaches(run, "Succeeded")
    text = control_plane.kubectl("get", "tft", run, "-n", world.namespace, "-o", "yaml").stdout
    done = control_plane.kubectl("apply", "-f", "-", "-n", world.namespace, stdin=text)
    assert done.returncode == 0, done.stderr
    fresh = yaml.safe_load(text)
    for name in ("uid", "resourceVersion", "creationTimestamp", "generation"):
        fresh["metadata"].pop(name)
    fresh["metadata"]["name"] = "restored"
    done = control_plane.kubectl("create", "-f", "-", "-n", world.namespace, stdin=yaml.safe_dump(fresh))
    assert done.returncode == 0, done.stderr
    await world.reaches("restored", "Inspecting")
