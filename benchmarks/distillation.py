"""Compare what students learn: from human labels, from those of a teacher too, and by which criterion.

    python benchmarks/distillation.py --data sets/bccd --images 20 --method teacher --seed 1
    python benchmarks/distillation.py --data sets/bccd --all --budget 7200

The first trains one student and appends a line of JSON to ``--results``; the second runs what the table needs and
skips what the file has; then, or with ``--table``, the table is printed. The methods, all with the same student, steps,
augmentation, schedule and learning rate:

    human    some images with human labels, chosen by the seed
    teacher  the same, and the other training images with labels of a teacher that was tuned on the same images only
    soft     the same with soft scores, and with an ignore band of unsure objects
    library  as human, with the loss of transformers instead of ours

The best weights are chosen on the human labels of the validation split, and AP is that of the test split. A teacher is
tuned once for each number of images and each seed, and kept below ``--work``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from learning import read
from learning_table import grouped, spread

ROOT = Path(__file__).resolve().parents[1]
BASES = ROOT / "examples" / "tiny_teachers"
LEARNS_FROM = {
    "human": "human labels",
    "teacher": "human and teacher labels",
    "soft": "the same, soft scores and an ignore band",
    "library": "human labels, criterion of transformers",
}
FEW = (("human", "teacher", "soft"), ("human", "teacher"))
"""Methods for the smaller and the larger share of images; all images: human and library."""
SHARES = (0.1, 0.25)
BATCH_SIZE = 8
TEACHER_VISITS = 700
"""Images that the training of a teacher uses, repetitions included."""

Line = dict[str, Any]
Run = tuple[str, int, int]
"""Method, number of images with human labels (0: all), and seed."""


def wanted(images: int, seeds: int) -> Iterator[Run]:
    """Yield the runs of the table, one seed after another."""
    for seed in range(seeds):
        yield "human", 0, seed
        for share, methods in zip(SHARES, FEW, strict=True):
            for method in methods:
                yield method, round(share * images), seed
        yield "library", 0, seed


def write_subset(data: Line, keep: set[int], path: Path) -> None:
    """Write the annotations of some images, by their ids."""
    images = [one for one in data["images"] if one["id"] in keep]
    annotations = [one for one in data["annotations"] if one["image_id"] in keep]
    path.write_text(json.dumps(data | {"images": images, "annotations": annotations}))


def divided(options: argparse.Namespace, work: Path) -> tuple[Path, Path]:
    """Write the annotations of the human images, and a folder of links to the others."""
    data = json.loads((options.data / "annotations_train.json").read_text())
    ids = sorted(image["id"] for image in data["images"])
    count = options.images or len(ids)
    chosen = {ids[i] for i in np.random.default_rng(options.seed).permutation(len(ids))[:count]}
    write_subset(data, chosen, work / "human.json")
    others = work / "others"
    shutil.rmtree(others, ignore_errors=True)
    others.mkdir()
    for image in data["images"]:
        if image["id"] not in chosen:
            (others / image["file_name"]).symlink_to((options.data / "images" / image["file_name"]).resolve())
    return work / "human.json", others


def splits(options: argparse.Namespace, human: Path) -> Line:
    """Return the dataset of a request."""
    images = str(options.data / "images")
    own = {"val": "annotations_val.json", "test": "annotations_test.json"}
    return {"train": {"annotations": str(human), "images": images}} | {
        split: {"annotations": str(options.data / name), "images": images} for split, name in own.items()
    }


def teacher_labels(options: argparse.Namespace, human: Path, others: Path, work: Path) -> tuple[Path, float]:
    """Return the labels of a teacher that is tuned on the human images, and its AP on the test split."""
    import engine

    soft = options.method == "soft"
    labels = work / f"labels-{options.method}.json"
    run = engine.fine_tune(
        splits(options, human),
        output=work / "teachers",
        teachers=[
            {
                "name": "GroundingDino",
                "base_model": str(BASES / "grounding_dino"),
                "epochs": max(1, round(TEACHER_VISITS / options.images)),
                "learning_rate": 2e-3,
                "lora": {"preset": "all"},
            }
        ],
        training={"seed": options.seed},
    )
    if not labels.is_file():
        engine.label(run.uri, others, labels, unsure=0.5 if soft else 1.0)
    tested = run.teachers[0].test_after
    assert tested is not None
    return labels, tested.ap


def use_loss_of_the_library() -> None:
    """Let D-FINE learn by the loss of transformers."""
    from engine.students.dfine.model import DFine

    def loss(self: Any, batch: Any, *, count: float) -> Any:
        pairs = zip(batch["labels"], batch["boxes"], strict=True)
        known = [{"class_labels": labels, "boxes": boxes} for labels, boxes in pairs]
        outputs = self.model(batch["pixel_values"], labels=known)
        # The library divides by the objects of the micro-batch, and our loop expects a share of the step's.
        return {"loss": outputs.loss * sum(map(len, batch["boxes"])) / max(count, 1.0)} | {
            term: outputs.loss.detach() for term in self.terms
        }

    DFine.loss = loss  # type: ignore[method-assign]


def train_once(options: argparse.Namespace) -> None:
    """Train one student and append the line."""
    import torch

    from engine.config.distill import LabelsFile, generate_distill_config
    from engine.dataset import inspect_request
    from engine.spec.distill import DistillSpec
    from engine.storage import Storage
    from engine.training import TeacherTrainer

    torch.set_num_threads(1)
    count = options.images
    work = options.work / f"{options.data.name}-{count or 'all'}-{options.seed}"
    work.mkdir(parents=True, exist_ok=True)
    human, others = divided(options, work)
    images = len(json.loads(human.read_text())["images"])
    unlabelled, teacher_ap = None, None
    if options.method in ("teacher", "soft"):
        labels, teacher_ap = teacher_labels(options, human, others, work)
        unlabelled = {"labels": str(labels), "images": str(others)}
        images += len(list(others.iterdir()))
    if options.method == "library":
        use_loss_of_the_library()
    spec = DistillSpec.model_validate(
        {
            "dataset": splits(options, human),
            "output": str(work / "students"),
            "student": {
                "size": options.size,
                "batch_size": BATCH_SIZE,
                "epochs": max(1, round(options.steps / math.ceil(images / BATCH_SIZE))),
                "masks": False,
            },
            "unlabelled": unlabelled,
            "training": {"seed": options.seed, "early_stopping": {"patience": 0}},
            "settings": {
                "students.*.evaluations": "4",
                "students.*.warmup_fraction": "0.05",
                "training.workers": "0",
                **({"labels.soft_scores": "true"} if options.method == "soft" else {}),
            },
        },
        by_name=True,
    )
    digest = "" if unlabelled is None else sha256(Path(unlabelled["labels"]).read_bytes()).hexdigest()
    info = inspect_request(spec.dataset, storage=Storage())
    config = generate_distill_config(info, spec, labels=LabelsFile(digest))
    folder = work / options.method
    shutil.rmtree(folder, ignore_errors=True)
    begin = time.monotonic()
    student = TeacherTrainer(config, work_dir=folder, cache=work / "cache").train()
    assert student.test_after is not None
    line = {
        "data": options.data.name,
        "method": options.method,
        "images": count,
        "seed": options.seed,
        "size": options.size,
        "steps": options.steps,
        "ap": round(student.test_after.ap, 4),
        "ap50": round(student.test_after.ap50, 4),
        "val_ap": round(student.after.ap, 4),
        "teacher_ap": None if teacher_ap is None else round(teacher_ap, 4),
        "seconds": round(time.monotonic() - begin),
    }
    with options.results.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def run_all(options: argparse.Namespace) -> None:
    """Run what is missing, until the budget is spent."""
    end = time.monotonic() + options.budget
    images = len(json.loads((options.data / "annotations_train.json").read_text())["images"])
    for method, count, seed in wanted(images, options.seeds):
        lines = read(options.results)
        own = {"data": options.data.name, "method": method, "images": count, "seed": seed}
        own |= {"size": options.size, "steps": options.steps}
        slowest = max((one["seconds"] for one in lines), default=0)
        if any(own.items() <= line.items() for line in lines) or time.monotonic() + slowest > end:
            continue
        command = [sys.executable, __file__, "--data", str(options.data), "--method", method, "--images", str(count)]
        command += ["--seed", str(seed), "--size", options.size, "--steps", str(options.steps)]
        command += ["--results", str(options.results), "--work", str(options.work)]
        subprocess.run(command, check=True)


def table(lines: Sequence[Line]) -> str:
    """Return mean and standard deviation of AP over the seeds, and its share of that with all human labels."""
    rows = [
        "| data | student | steps | human labels | it learns from | AP | of all | its teacher's AP |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups = grouped(lines, "data", "size", "steps", "images", "method")
    for (data, size, steps, images, method), runs in sorted(groups.items(), key=lambda one: one[0]):
        everything = groups.get((data, size, steps, 0, "human"), [])
        whole = statistics.mean(run["ap"] for run in everything) if everything else 0.0
        own = [run["ap"] for run in runs]
        share = f"{statistics.mean(own) / whole:.0%}" if whole else "–"
        of_teacher = "" if runs[0]["teacher_ap"] is None else spread([run["teacher_ap"] for run in runs])
        labels = f"| {data} | {size} | {steps} | {images or 'all'} | {LEARNS_FROM[method]} |"
        rows.append(f"{labels} {spread(own)} | {share} | {of_teacher} |")
    return "\n".join(rows)


def main() -> None:
    """Parse the arguments."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with annotations_train.json, _val and _test")
    parser.add_argument("--all", action="store_true", help="all runs of the table")
    parser.add_argument("--table", action="store_true", help="print the table of the results")
    parser.add_argument("--budget", type=float, default=3600, help="seconds after which no run may end")
    parser.add_argument("--seeds", type=int, default=3, help="with --all: number of seeds")
    parser.add_argument("--method", choices=list(LEARNS_FROM), default="human")
    parser.add_argument("--images", type=int, default=0, help="images with human labels; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", default="pico", help="size of the D-FINE, from random weights")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--results", type=Path, default=Path("distillation.jsonl"))
    parser.add_argument("--work", type=Path, default=Path("out/distillation"))
    options = parser.parse_args()
    options.data = options.data.resolve()
    if not (options.data / "annotations_train.json").is_file():
        parser.error(f"{options.data} has no annotations_train.json")
    if not (options.all or options.table):
        return train_once(options)
    if options.all:
        run_all(options)
    print(table(read(options.results)))
    return None


if __name__ == "__main__":
    main()
