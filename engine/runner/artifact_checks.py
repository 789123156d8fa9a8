"""The artifacts that a distillation asks for: checked before training, and against those of a published run."""

from __future__ import annotations

from engine.config import DistillConfig, RunConfig
from engine.errors import ConfigError
from engine.layout import RunLayout
from engine.manifest import DistillManifest
from engine.optimization.packages import check_installed
from engine.optimization.targets import limits_of
from engine.results.run_files import RunMetadata


def check_artifact_formats(manifest: DistillManifest) -> None:
    """Check before training that the formats can be built on this machine.

    Raises:
        ConfigError: A format is built elsewhere, or packages are missing.
    """
    for target, _ in limits_of(manifest.spec.optimize):
        check_installed(target.packages)


def check_artifacts(layout: RunLayout, metadata: RunMetadata, config: RunConfig) -> None:
    """Check that a published run has the artifacts that a configuration asks for.

    Raises:
        ConfigError: Some were not built, or were built with another limit.
    """
    wanted = config.optimize if isinstance(config, DistillConfig) else ()
    for name in config.models.names if wanted else ():
        made = next((one for one in metadata.artifacts if one.model == name), None)
        limits = [(target.format, drop) for target, drop in limits_of(wanted)]
        lacking = [target for target, _ in limits] if made is None else made.lacks(limits)
        if lacking:
            formats = " ".join(f"--format {one}" for one in lacking)
            raise ConfigError(
                f"{layout.root} is published without {', '.join(lacking)} at this maxApDrop. Export its student with "
                f"`teacher optimize --student {layout.root} {formats} --data … --output …`, or train it again with "
                "--again (again=True)"
            )
