"""Runs by name: whatever knows of runs, such as a cluster's operator, registers a resolver as an entry point.

Each entry point of the group ``teacher.runs`` is a callable ``(name: str, namespace: str | None) -> ResolvedRun``. It
raises a TeacherError if it knows of no such run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from engine.errors import ConfigError
from engine.spec import AddressingStyle

GROUP = "teacher.runs"


@dataclass(frozen=True)
class ResolvedRun:
    """Where a published run lies, and how its storage is reached."""

    uri: str
    """The run's folder: ``<output>/<name>/<run id>``."""
    endpoint_url: str | None = None
    region: str | None = None
    addressing_style: AddressingStyle | None = None
    requester_pays: bool | None = None
    azure_account: str | None = None
    google_project: str | None = None


Resolver = Callable[[str, str | None], ResolvedRun]


def find_run(run: str, *, namespace: str | None = None) -> ResolvedRun:
    """The run that is meant: by its folder, or by its name where something resolves names.

    Args:
        run: URI or path of the run's folder, or a name without a slash. A folder here of that name comes first.
        namespace: Where the name is looked for; there are names only.

    Raises:
        ConfigError: A name was given, and nothing that resolves names is installed; or a namespace for a folder.
        TeacherError: There is no such run.
    """
    if "/" in run or (namespace is None and Path(run).exists()):
        if namespace is not None:
            raise ConfigError(f"--namespace goes with a name, but {run} is a folder: leave it out")
        return ResolvedRun(run)
    return _resolver(run)(run, namespace)


def _resolver(run: str) -> Resolver:
    """The first that is whole: an entry point may be there without what it needs."""
    missing = ""
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            return _loaded(point)
        except ImportError as error:
            missing = f" ({error})"
    raise ConfigError(
        f"{run!r} is no folder here, and nothing that is installed knows runs by name{missing}: install "
        "teacher-finetune[operator] to look it up in a cluster, or give the run's URI, <output>/<name>/<run id>/"
    )


def _loaded(point: EntryPoint) -> Resolver:
    resolver: Resolver = point.load()
    return resolver
