"""The report says what came of a run, honestly, to everyone, from one file."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from loops import nonempty
from PIL import Image

from engine.dataset.types import ClassInfo, CocoDataset, DatasetInfo, Detections, Problem, Severity
from engine.evaluation.example_images import SampleView, make_record
from engine.evaluation.ground_truth import GroundTruth
from engine.evaluation.report import render_report
from engine.evaluation.report_metrics import class_rows, curves, score_curves
from engine.evaluation.report_sections import mistakes, thresholds
from engine.evaluation.report_verdict import verdict
from engine.evaluation.retention import retention
from engine.results.metrics import ApMetrics, ClassMatrix, Comparison, Confusion, Interval, ScoreCurve
from engine.results.trials import cross_validation
from engine.results.types import (
    AdapterFile,
    ClassQuality,
    HistoryPoint,
    Retention,
    SplitCheck,
    StrengthCurve,
    StrengthPoint,
    TeacherResult,
    TrialResult,
)
from engine.spec import TeacherName

from .conftest import HEIGHT, WIDTH, seen

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "img", "line", "circle", "rect", "polyline"}


def metrics(ap: float, **more: Any) -> ApMetrics:
    names = "ap50 ap75 ap_small ap_medium ap_large ar1 ar10 ar100 ar_small ar_medium ar_large".split()  # noqa: SIM905
    values = {"ap": ap, **dict.fromkeys(names, ap), "per_class": {"bolt": ap, "nut": ap / 2}, "images": 72, **more}
    return ApMetrics(**values)


def result(before: ApMetrics, after: ApMetrics, **more: Any) -> TeacherResult:
    values: dict[str, Any] = {
        "teacher": TeacherName.GROUNDING_DINO,
        "base_model": "IDEA-Research/grounding-dino-tiny",
        "base_revision": "a1b2c3",
        "best_epoch": 2,
        "epochs": 4,
        "steps": 40,
        "seconds": 3725,
        "peak_memory_bytes": 2_500_000_000,
        "trainable_parameters": 146_432,
        "adapter": AdapterFile(uri="s3://out/a/adapter_model.safetensors", sha256="5" * 64, size_bytes=612_344),
    }
    return TeacherResult(before=before, after=after, **{**values, **more})


def info(**more: Any) -> DatasetInfo:
    values: dict[str, Any] = {
        "source": "s3://data/annotations.json",
        "digest": "9f2c" * 16,
        "images": 360,
        "annotations": 1234,
        "annotations_read": 1240,
        "has_boxes": True,
        "has_masks": False,
        "boxes_derived": 0,
        "masks": 0,
        "crowd_share": 0,
        "classes": (ClassInfo(id=1, name="bolt", annotations=1000, images=200),),
        "sizes": None,
        "image_sizes": None,
    }
    return DatasetInfo(**{**values, **more})


def report(*results: TeacherResult, **more: Any) -> str:
    values: dict[str, Any] = {
        "name": "forklifts",
        "run_id": "20f3ab91c0de",
        "created": "2026-11-24T02:31:05+00:00",
        "info": info(),
        "config_yaml": "name: forklifts\n",
        "settings": {},
        "samples": {},
        "environment": {"hardware": "CPU"},
    }
    return render_report(results=results, **{**values, **more})


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def views(dataset: CocoDataset, index: int, before: Detections, *, size: tuple[int, int], iou_type: Any) -> SampleView:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    record = make_record(
        GroundTruth.of(dataset, iou_type), index, before, GroundTruth.of(dataset, iou_type).objects[index]
    )
    return SampleView(noise, record)


def test_a_gain_is_reported_in_one_sentence() -> None:
    page = Page(report(result(metrics(0.12), metrics(0.41))))
    assert "Grounding DINO: AP 0.12 → 0.41 on 72 images of the validation split." in page.text
    assert "epoch and the strength of the adapter were selected on these images" in page.text


@pytest.mark.parametrize(
    ("before", "after", "kind", "words"),
    [
        (0.41, 0.412, "same", "no measurable change: AP 0.41 → 0.41"),
        (0.41, 0.30, "worse", "got worse: AP 0.41 → 0.30"),
        (-1, -1, "unknown", "no objects"),
    ],
)
def test_no_gain_is_reported_as_plainly(before: float, after: float, kind: str, words: str) -> None:
    said = verdict(result(metrics(before), metrics(after)))
    assert said.kind == kind
    assert words in said.sentence
    assert words in Page(report(result(metrics(before), metrics(after)))).text


def curve_of(reason: str = "half of it") -> StrengthCurve:
    points = ((0.0, 0.1, 1.0), (0.5, 0.29, 0.9), (1.0, 0.3, 0.2))
    return StrengthCurve(
        images=72,
        retention_images=25,
        points=tuple(StrengthPoint(strength=s, ap=ap, retention=share) for s, ap, share in points),
        reason=reason,
    )


def test_the_strength_is_drawn_with_its_reason() -> None:
    chosen = result(metrics(0.1), metrics(0.29), strength=0.5, strength_curve=curve_of())
    page = Page(report(chosen))
    assert "0.5: half of it." in page.text
    assert "chosen 0.290 at strength 0.5" in page.text
    assert "chosen 0.900 at strength 0.5" in page.text
    assert "72 validation images and 25 retention images" in page.text
    assert any("strength 0.5: half of it" in remark for remark in verdict(chosen).remarks)
    assert "Strength of the adapter" not in Page(report(result(metrics(0.1), metrics(0.3)))).text


def test_an_adapter_of_strength_0_is_not_sold_as_a_result() -> None:
    base = result(metrics(0.1), metrics(0.1), strength=0.0, strength_curve=curve_of("none is better than the base"))
    said = verdict(base)
    assert said.kind == "same"
    assert "no adapter was better than the base" in said.sentence
    assert "strength 0 and gives the base's results" in said.sentence
    assert any("Use the base" in remark for remark in said.remarks)
    assert not any("last epoch" in remark for remark in said.remarks)
    assert said.sentence in Page(report(base)).text


def test_intervals_before_and_after_are_shown_with_what_else_the_split_was_used_for() -> None:
    def low_to_high(low: float, high: float) -> Interval:
        return Interval(low=low, high=high)

    compared = Comparison(
        images=72,
        resamples=400,
        before=low_to_high(0.05, 0.15),
        after=low_to_high(0.25, 0.35),
        difference=low_to_high(0.15, 0.25),
    )
    page = Page(report(result(metrics(0.1), metrics(0.3), comparison=compared)))
    assert "AP is 0.050 to 0.150 before, 0.250 to 0.350 after, and changes by +0.150 to +0.250" in page.text
    assert "400 resamples of 72 images" in page.text
    assert "strength of the adapter were selected on the validation split" in page.text


def retained(base: float, adapted: float, **more: Any) -> Retention:
    return retention("built-in", base=metrics(base, per_class={"cat": base}, **more), adapted=metrics(adapted, **more))


def confused(**counts: int) -> Confusion:
    kinds = dict.fromkeys(("objects", "found", "missed", "false", "wrong_class", "badly_localised", "duplicates"), 0)
    matrix = ClassMatrix(classes=("bolt", EVIL), counts=((7, 1, 0), (0, 5, 2), (0, 3, 0)))
    return Confusion(**{**kinds, **counts}, matrix=matrix)


@pytest.mark.parametrize(("adapted", "warned"), [(0.31, True), (0.33, False), (0.5, False)])
def test_the_verdict_warns_where_little_of_the_base_is_left(adapted: float, warned: bool) -> None:
    said = verdict(result(metrics(0.1), metrics(0.3), retention=retained(0.4, adapted)))
    assert (
        any("zero-shot AP on other classes is kept: switch the adapter off" in remark for remark in said.remarks)
        is warned
    )
    assert said.kind == "better"


def test_what_is_left_of_the_base_is_one_sentence_and_a_bar_each() -> None:
    page = Page(report(result(metrics(0.1), metrics(0.3), retention=retained(0.4, 0.2))))
    assert (
        "Prompted for 1 other classes on 72 built-in images, AP goes from 0.400 to 0.200: 50% of the base's"
        in page.text
    )
    assert "mean IoU" not in page.text
    masks = report(result(metrics(0.1), metrics(0.3), retention=retained(0.4, 0.2, miou=0.7)))
    assert "mean IoU" in Page(masks).text


def test_a_base_without_skill_on_other_things_is_no_reason_to_warn() -> None:
    unmeasured = result(metrics(0.1), metrics(0.3), retention=retained(0.01, 0.0))
    assert "retention cannot be measured" in Page(report(unmeasured)).text
    assert not any("switch" in remark for remark in verdict(unmeasured).remarks)


def test_mistakes_tell_objects_from_detections_and_each_group_adds_up() -> None:
    counted = result(
        metrics(0.1),
        metrics(0.3),
        confusion_before=confused(objects=20, found=5, missed=12, wrong_class=3, false=40),
        confusion_after=confused(objects=20, found=16, missed=4, false=10, duplicates=6),
    )
    objects, detections = mistakes(counted)
    rows = {row.label: (row.before, row.after, row.before_share, row.after_share) for row in objects.rows}
    assert rows == {"Found": (5, 16, 0.25, 0.8), "Missed": (12, 4, 0.6, 0.2), "Mistaken": (3, 0, 0.15, 0.0)}
    assert (objects.before, objects.after) == (20, 20)
    rows = {row.label: (row.before, row.after, row.before_share, row.after_share) for row in detections.rows}
    assert rows["Right"] == (5, 16, 5 / 48, 0.5)
    assert rows["False"] == (40, 10, 40 / 48, 10 / 32)
    assert (detections.before, detections.after) == (48, 32)
    html = report(counted)
    assert 'height="8"' in html
    assert EVIL not in html
    page = Page(html)
    assert "Missed no detection near it 12 4" in page.text
    assert "no object 3" in page.text


def test_thresholds_stand_with_what_they_are_worth_and_guesses_last() -> None:
    known = ClassQuality(f1=0.8, precision=0.9, recall=0.72, objects=11)
    none = ClassQuality(f1=-1, precision=-1, recall=-1, objects=0)
    chosen = result(
        metrics(0.1), metrics(0.3), thresholds={"nut": 0.25, "bolt": 0.25}, quality={"nut": none, "bolt": known}
    )
    assert [(row.name, row.quality) for row in thresholds(chosen)] == [("bolt", known), ("nut", None)]
    page = Page(report(chosen))
    assert "bolt 0.250 0.800 0.900 0.720 nut no correct detection: median of the other classes 0.250 – – –" in page.text


def test_test_split_takes_precedence_over_validation_split() -> None:
    said = verdict(
        result(metrics(0.1), metrics(0.9), test_before=metrics(0.2, images=30), test_after=metrics(0.3, images=30))
    )
    assert said.sentence == "Grounding DINO: AP 0.20 → 0.30 on 30 images of the test split."
    assert not any("chose" in remark for remark in said.remarks)
    assert any("30 images" in remark and "chance" in remark for remark in said.remarks)


def test_a_run_whose_score_was_still_rising_is_advised_to_train_longer() -> None:
    rising = verdict(result(metrics(0.1), metrics(0.3), best_epoch=4))
    assert any("more epochs" in remark for remark in rising.remarks)


def test_classes_are_sorted_by_ap_and_those_without_objects_come_last() -> None:
    before = metrics(0.1, per_class={"a": 0.1, "b": 0.2, "c": -1})
    after = metrics(0.1, per_class={"c": -1, "a": 0.3, "b": 0.9})
    rows = class_rows(before, after)
    assert [(row.label, row.after) for row in rows] == [("b", 0.9), ("a", 0.3), ("c", None)]
    assert rows[0].change == pytest.approx(0.7)
    assert "none in the validation split" in Page(report(result(before, after))).text


def test_curves_mark_the_best_epoch_and_the_base() -> None:
    history = [HistoryPoint(step=i, epoch=i, loss=5 - i) for i in range(1, 5)]
    history += [HistoryPoint(step=i, epoch=i, ap=ap) for i, ap in enumerate((0.2, 0.4, 0.3, 0.35), start=1)]
    loss, ap = curves(result(metrics(0.1), metrics(0.4), history=tuple(history)))
    assert (loss.base, loss.best) == (None, None)
    assert ap.best_label == "best 0.400 at epoch 2"
    assert ap.best == ap.dots[1]
    assert ap.base > ap.dots[0][1] > ap.best[1]  # y goes down
    assert [tick.label for tick in ap.y_ticks] == ["0", "0.1", "0.2", "0.3", "0.4"]
    assert curves(result(metrics(0.1), metrics(0.4))) == []


def test_everything_that_users_name_is_escaped() -> None:
    evil_metrics = metrics(0.3, per_class={EVIL: 0.3})
    problem = Problem(code="x", severity=Severity.WARNING, count=9, message=EVIL, advice=EVIL, examples=(EVIL,))
    dataset = CocoDataset((), (), (EVIL,), (1,))
    html = report(
        result(evil_metrics, evil_metrics, base_model=EVIL, adapter=AdapterFile(uri=EVIL, sha256=EVIL, size_bytes=1)),
        name=EVIL,
        run_id=EVIL,
        info=info(source=EVIL, problems=(problem,), classes=(ClassInfo(id=1, name=EVIL, annotations=1, images=1),)),
        config_yaml=EVIL,
        environment={EVIL: EVIL},
        samples={TeacherName.GROUNDING_DINO: [evil_view(dataset)]},
    )
    page = Page(html)
    assert "<script" not in html
    assert page.text.count(EVIL) >= 12
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def evil_view(dataset: CocoDataset) -> SampleView:
    from engine.evaluation.example_images import DetectionsRecord, SampleRecord

    boxes = DetectionsRecord.of(seen((3, 3, 20, 20), scores=[0.9]))
    record = SampleRecord(
        index=0, file_name=EVIL, width=60, height=40, classes=dataset.classes, truth=boxes, before=boxes, after=boxes
    )
    return SampleView(np.zeros((40, 60, 3), np.uint8), record)


def test_nothing_is_loaded_from_elsewhere(dataset: CocoDataset) -> None:
    view = views(dataset, 2, seen(scores=[]), size=(WIDTH, HEIGHT), iou_type="bbox")
    html = report(result(metrics(0.1), metrics(0.4)), samples={TeacherName.GROUNDING_DINO: [view]})
    for tag, attributes in nonempty(Page(html).tags):
        assert tag not in {"script", "link", "iframe", "object", "embed"}
        assert not {"href", "srcset", "xlink:href"} & set(attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
    assert "default-src 'none'" in html
    assert "url(" not in html
    assert "prefers-color-scheme: dark" in html


def test_precision_recall_and_f1_are_drawn_for_base_and_adapter() -> None:
    curve = ScoreCurve(scores=(0.9, 0.2), precision=(1.0, 0.5), recall=(0.25, 0.5))
    measured = result(metrics(0.1), metrics(0.3), score_curve_before=curve, score_curve_after=curve)
    precision, f1 = score_curves(curve, curve)
    assert (precision.x_title, f1.x_title) == ("recall", "score threshold")
    assert f1.points == f1.base_points
    assert f1.summary == "F1 over score threshold: highest 0.5 at 0.2"
    page = Page(report(measured))
    assert len([1 for tag, attributes in page.tags if tag == "polyline"]) == 4
    assert score_curves(None) == []


def test_settings_stand_in_the_report() -> None:
    html = report(result(metrics(0.1), metrics(0.3)), settings={TeacherName.GROUNDING_DINO: {"LoRA": f"rank 8 {EVIL}"}})
    assert "LoRA rank 8 <script>" in Page(html).text
    assert EVIL not in html


def test_pages_of_all_validation_images_are_linked_in_the_folder_of_the_run() -> None:
    page = Page(report(result(metrics(0.1), metrics(0.3), validation_pages=3)))
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == ["teachers/grounding_dino_lora/validation/page-001.html"]
    assert "href" not in report(result(metrics(0.1), metrics(0.3)))


@pytest.mark.parametrize("count", [3, 40])
def test_a_legend_of_many_classes_is_folded(dataset: CocoDataset, count: int) -> None:
    many = replace(dataset, classes=tuple(f"class {i}" for i in range(count)))
    found = seen(*[(3, 3, 20, 20)] * count, scores=[0.5] * count, classes=list(range(count)))
    view = views(many, 2, found, size=(WIDTH, HEIGHT), iou_type="bbox")
    page = Page(report(result(metrics(0.1), metrics(0.4)), samples={TeacherName.GROUNDING_DINO: [view]}))
    assert ("28 more classes" in page.text) == (count == 40)
    assert f"class {count - 1}" in page.text


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_each_sample_is_shown_with_truth_before_and_after_in_words_too(dataset: CocoDataset, iou_type: str) -> None:
    teacher = TeacherName.GROUNDING_DINO if iou_type == "bbox" else TeacherName.SAM
    view = views(
        dataset, 2, GroundTruth.of(dataset.subset([1]), iou_type).objects[0], size=(WIDTH, HEIGHT), iou_type=iou_type
    )
    html = report(result(metrics(0.1), metrics(0.4), teacher=teacher), samples={teacher: [view]})
    page = Page(html)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [image["alt"] for image in images] == [
        "Truth, 2.jpg: bolt × 3, nut × 2",
        "Before, 2.jpg: nothing",
        "After, 2.jpg: bolt × 3, nut × 2",
    ]
    for image in images:
        content = base64.b64decode(str(image["src"]).removeprefix("data:image/jpeg;base64,"))
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.size == (2 * WIDTH, 2 * HEIGHT)
    found = "{} of 5 found" if iou_type == "bbox" else "{} of 5 masks correct"
    assert found.format(0) in page.text
    assert found.format(5) in page.text


def test_many_large_noisy_pictures_stay_below_two_megabytes(dataset: CocoDataset) -> None:
    large = replace(dataset, images=tuple(replace(image, width=480, height=360) for image in dataset.images))
    many = [views(large, 2, seen(scores=[]), size=(480, 360), iou_type="bbox")] * 12
    html = report(result(metrics(0.1), metrics(0.4)), samples={TeacherName.GROUNDING_DINO: many})
    assert html.count("data:image/jpeg") == 36
    assert len(html) < 2_000_000


def test_the_lines_that_load_the_adapter_name_its_folder() -> None:
    page = Page(report(result(metrics(0.1), metrics(0.4))))
    assert "load_adapted('s3://out/a')" in page.text
    assert "612 kB" in page.text
    assert "1 h 2 min" in page.text
    assert "5" * 64 in page.text


def test_problems_stand_with_their_advice() -> None:
    problem = Problem(
        code="missing_image",
        severity=Severity.WARNING,
        count=7,
        message="7 images are missing.",
        advice="Upload them.",
        examples=("a.jpg", "b.jpg"),
    )
    text = Page(report(result(metrics(0.1), metrics(0.4)), info=info(problems=(problem,)))).text
    assert "Warning 7 images are missing. Upload them. For example a.jpg, b.jpg, 7 in all" in text
    assert re.search(r"Objects 1,234", text)


def test_both_teachers_stand_on_one_page() -> None:
    sam = result(metrics(0.2, miou=0.5), metrics(0.3, miou=0.8), teacher=TeacherName.SAM)
    text = Page(report(result(metrics(0.12), metrics(0.41)), sam)).text
    assert "Grounding DINO: AP 0.12 → 0.41" in text
    assert "SAM: AP 0.20 → 0.30" in text
    assert "mean IoU of masks from true boxes 0.500 0.800 +0.300" in text


def test_nothing_is_claimed_of_images_that_were_not_checked() -> None:
    one = result(metrics(0.12), metrics(0.41))
    assert "trained on" not in verdict(one).sentence
    checked = one.model_copy(update={"split_check": SplitCheck(val=0)})
    assert "on 72 images it was not trained on" in verdict(checked).sentence
    shared = one.model_copy(update={"split_check": SplitCheck(val=3)})
    assert "of which 3 are also in another split" in verdict(shared).sentence


def trial(number: int, ap: float | None, **more: Any) -> TrialResult:
    values = {"name": f"trial-{number}", "ap_before": 0.1, "ap": ap, "validation_images": 72, "images": 1200}
    return TrialResult(**{**values, **more})


def test_trials_are_listed_and_the_published_one_is_marked() -> None:
    trials = (
        trial(1, 0.3, settings={"lora.rank": 8}),
        trial(2, 0.4, settings={"lora.rank": 32}, chosen=True),
        trial(3, None, settings={"lora.rank": 64}, failure=f"the loss is nan {EVIL}"),
    )
    page = report(result(metrics(0.1), metrics(0.4), trials=trials))
    words = " ".join(Page(page).words)
    assert "trial-2 (published) lora.rank 32 0.100 0.400 1,200" in " ".join(words.split())
    assert "trial-2 of 3 is published (lora.rank 32): the best by AP on the validation split." in words
    assert "used to choose the trial and its best epoch" in words
    assert EVIL not in page


def test_folds_are_listed_with_their_mean_and_standard_deviation() -> None:
    folds = cross_validation([trial(n, ap, name=f"fold-{n}") for n, ap in enumerate((0.2, 0.3, 0.4), 1)])
    words = " ".join(" ".join(Page(report(result(metrics(0.1), metrics(0.3), cross_validation=folds))).words).split())
    assert "cross-validated on 3 folds: AP 0.100 ± 0.000 -> 0.300 ± 0.100" in words
    assert "fold-3 0.100 0.400 1,200" in words
    assert "each detected by the adapter that was not trained on it" in words
