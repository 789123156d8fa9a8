"""Train what a request asks for and publish it: the common part of the commands run and distill."""

from __future__ import annotations

from pathlib import Path

from engine.cli import options
from engine.cli.display import console, show_info
from engine.cli.progress_style import Progress, progress_listener
from engine.config import RunConfig
from engine.layout import RunLayout
from engine.manifest import DistillManifest, Manifest
from engine.results.run_files import RunMetadata


def complete_run(
    manifest: Manifest | DistillManifest, *, again: bool, progress: Progress, work_dir: Path | None
) -> tuple[RunLayout, RunMetadata, RunConfig]:
    """Inspect the data, train all models and publish; a published run is only fetched, unless ``again``.

    Returns:
        The published files, the results, and the configuration of the first model.

    Raises:
        TeacherError: The kind names the cause.
    """
    from engine import runner

    storage = options.storage_of(manifest)
    info, runs = runner.prepare(manifest, storage)
    show_info(info)
    layout = runs[0].layout
    done = None if again else runner.published(layout, storage, runs[0].config)
    if done is not None:
        console.print("this very run is published already; --again trains it again", style="dim")
    listener = progress_listener(progress)
    done = runner.run_stages(info, runs, storage, listener=listener, work_dir=work_dir, again=again, done=done)
    return layout, done, runs[0].config
