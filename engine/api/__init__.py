"""The public functions of :mod:`engine`: each takes paths or URIs, and needs no other object.

    import engine

    engine.inspect_dataset("data/annotations.json")
    run = engine.fine_tune("data/annotations.json", images="data/images/", output="out/")
    engine.label(run.uri, "new/", output="out/labels.json")
    engine.evaluate(run.teachers[0].adapter.uri, "unseen/annotations.json").adapted.metrics.ap
    engine.load_adapted(run.teachers[0].adapter.uri).predict(samples)
    student = engine.distill("data/annotations.json", images="data/images/", output="edge/")
    engine.load_student(student.uri).predict(samples)
    engine.optimize(run.uri, "data/annotations.json", output="edge/", formats=["onnx", "openvino-int8"])

Credentials and endpoints of object storage come from the environment.
"""

from engine.api.adapters import evaluate, label, load_adapted
from engine.api.distillation import distill, load_student
from engine.api.fine_tuning import FineTuned, fine_tune, inspect_dataset
from engine.api.optimization import optimize

__all__ = [
    "FineTuned",
    "distill",
    "evaluate",
    "fine_tune",
    "inspect_dataset",
    "label",
    "load_adapted",
    "load_student",
    "optimize",
]
