"""Runs the stages of a request on this machine, from inspection to published adapters.

On a cluster the operator does this. Inspection runs in this process; each later stage is a process of its own, like a
Job on a cluster: its memory is freed when it ends, and its exit code and outcome file give the result.
"""

from engine.runner.artifact_checks import check_artifact_formats
from engine.runner.planning import begin, prepare
from engine.runner.published_run import forget, published
from engine.runner.run import only_here, run_stages, scratch_of
from engine.runner.stage_process import run_stage
from engine.runner.unlabelled import label_unlabelled

__all__ = [
    "begin",
    "check_artifact_formats",
    "forget",
    "label_unlabelled",
    "only_here",
    "prepare",
    "published",
    "run_stage",
    "run_stages",
    "scratch_of",
]
