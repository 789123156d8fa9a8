"""A whole request in one call: inspect, configure, train, publish. What ``teacher run`` does with a manifest.

run = fine_tune(FineTuneSpec(dataset=DatasetSpec(annotations="data/annotations.json"), output="out/"))
print(run.teachers[0].adapter.uri)
"""

from __future__ import annotations

from pathlib import Path

from engine import runner
from engine.manifest import Manifest
from engine.results.events import Event, Listener
from engine.results.no_gain import check_gain
from engine.results.run_files import RunMetadata
from engine.spec import FineTuneSpec
from engine.storage import Storage, StorageOptions
from engine.text.pydantic_errors import parse


def _silent(event: Event) -> None:
    pass


def fine_tune(
    spec: FineTuneSpec,
    *,
    name: str = "run",
    listener: Listener = _silent,
    work_dir: Path | None = None,
    again: bool = False,
) -> RunMetadata:
    """Inspect, configure, train and publish, as ``teacher run`` does with a manifest.

    Args:
        spec: The request; artifacts go to ``<spec.output>/<name>/<run id>/``.
        name: Name of the request: lower-case letters, digits and ``-``.
        listener: Receives the progress events; default: nobody.
        work_dir: Scratch folder; default: one of this request in the cache folder.
        again: Train even if this very run is published.

    Returns:
        What was published: the result of each teacher, with its AP before and after and the URI of its adapter.

    Raises:
        TeacherError: Of the kind that the failure is; NotBetterThanBaseError after publishing, if ``onNoGain`` is
            ``Fail``.
    """
    manifest = parse(Manifest, {"name": name, "spec": spec}, where="the request")
    storage = Storage(StorageOptions(**spec.storage.model_dump()))
    info, runs = runner.prepare(manifest, storage)
    done = runner.run_stages(info, runs, storage, listener=listener, work_dir=work_dir, again=again)
    check_gain(done.teachers, runs[0].config.training.on_no_gain)
    return done
