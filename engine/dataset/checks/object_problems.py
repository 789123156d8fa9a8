"""Problems of objects whose box, mask, area, class and crowd flag contradict each other."""

from __future__ import annotations

from engine.dataset.types import Severity

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

OBJECT_PROBLEMS: dict[str, tuple[Severity, str, str]] = {
    "scaled_box": (
        WARNING,
        "Boxes are in other units than pixels of their image, such as fractions or percentages of it; they are left "
        "out.",
        "These look normalised: multiply x and width by the image's width, y and height by its height.",
    ),
    "scaled_boxes": (
        ERROR,
        "The boxes of the whole file are in other units than pixels, such as fractions or percentages of their image.",
        "These look normalised: multiply x and width by the image's width, y and height by its height.",
    ),
    "corner_box": (
        WARNING,
        "Boxes match their mask or image only as two corners, not as a corner and a size; they are left out.",
        "Write bbox as [x, y, width, height]: subtract the first corner from the second.",
    ),
    "corner_boxes": (
        ERROR,
        "The boxes of the file match their images and areas only as two corners, not as a corner and a size.",
        "Write bbox as [x, y, width, height]: subtract the first corner from the second.",
    ),
    "center_box": (
        WARNING,
        "Boxes match their mask only if they start with the center, not the top left corner; they are left out.",
        "Write bbox as [x, y, width, height]: subtract half of the size from the center.",
    ),
    "swapped_boxes": (
        ERROR,
        "The boxes of the file match their images only if x and y, or width and height of the images, are swapped.",
        "Write bbox as [x, y, width, height], x to the right and y down, and the size of the existing images.",
    ),
    "center_boxes": (
        ERROR,
        "The boxes of the file match their images only if they start with the center, not the top left corner.",
        "Write bbox as [x, y, width, height]: subtract half of the size from the center.",
    ),
    "swapped_axes": (
        WARNING,
        "Box and mask match only if x and y, or width and height, are swapped in one; these objects are left out.",
        "Write bbox as [x, y, width, height] and polygons as [x1, y1, x2, y2, ...], x to the right and y down.",
    ),
    "scaled_mask": (
        WARNING,
        "Masks are in other units than their boxes, such as fractions of the image or pixels of a resized one; "
        "these objects are left out.",
        "Write boxes and polygons in pixels of the image that is listed; if polygons are normalised, multiply x by its "
        "width and y by its height.",
    ),
    "row_mask": (
        WARNING,
        "Run lengths match their boxes only in row order, but COCO uses column order; these objects are left out.",
        "Encode the masks in column-major (Fortran) order, as pycocotools does, with size as [height, width].",
    ),
    "inverted_mask": (
        WARNING,
        "Run lengths mark everything except the object; these objects are left out.",
        "The first count is that of pixels outside the object: start with 0 if the first pixel is inside.",
    ),
    "mask_without_pixel": (
        WARNING,
        "Masks cover no pixel of their image; these objects are left out.",
        "Draw the outline again, or check that polygons are in pixels.",
    ),
    "box_and_mask_differ": (
        WARNING,
        "The mask is mostly outside its box, or covers almost nothing of it; these objects are left out.",
        "Check that both are of the same object, in pixels of the image that is listed.",
    ),
    "rotated_box": (
        WARNING,
        "Boxes are rotated (attributes.rotation); the upright box around each is used.",
        "Export polygons or masks if the exact outline matters.",
    ),
    "unclear_rotation": (
        WARNING,
        "Annotations have a rotation, but it is unclear whether bbox is the box before or after it; they are left out.",
        "Write the upright box around the object as bbox and remove rotation, or give a polygon.",
    ),
    "wrong_area": (
        WARNING,
        "The area is neither that of the mask nor that of the box; the area of the mask, or else of the box, is used.",
        "Export it again, or leave area out.",
    ),
    "duplicate_object": (
        WARNING,
        "Objects are annotated twice, with the same class and box in the same image; the first of each is used.",
        "Remove the copies, which merged exports often contain.",
    ),
    "near_duplicate": (
        WARNING,
        "Objects of one class have nearly the same box in the same image; all of them are used.",
        "Remove those that are the same object.",
    ),
    "box_with_two_classes": (
        INFO,
        "The same box has two classes; both are used, although at most one can be detected well.",
        "Give each object one class.",
    ),
    "shifted_category_ids": (
        ERROR,
        "The category ids of annotations look shifted by one from those of the categories: some are not listed, and "
        "all would be if each were one higher or lower. Objects would have the wrong class.",
        "Count category_id like the ids under categories.",
    ),
    "shifted_image_ids": (
        ERROR,
        "The image ids of annotations look shifted by one from those of the images: some are not listed, and all would "
        "be if each were one higher or lower. Objects would be in the wrong image.",
        "Count image_id like the ids under images; if only images are missing, remove their annotations.",
    ),
    "annotated_heading": (
        WARNING,
        "Objects have the class that is only the supercategory of the others, as Roboflow exports it, and the last "
        "class has "
        "none: category ids may be shifted by one, so objects have the wrong class.",
        "Check some objects; count category_id like the ids under categories.",
    ),
    "objects_as_crowds": (
        WARNING,
        "Annotations with iscrowd: 1 look like single objects, marked only because their masks are run lengths; they "
        "are neither learned nor evaluated.",
        "Set dataset.crowds: Objects (--crowds Objects) to treat them as objects.",
    ),
    "over_100_objects": (
        INFO,
        "Images have more than 100 objects of a class; AP counts the best 100 detections of each image and class, so "
        "it has an upper limit.",
        "Compare AP with that limit, or cut the images into tiles.",
    ),
    "over_300_objects": (
        INFO,
        "Images have more than 300 objects; labels and predictions have at most 300 per image.",
        "Cut the images into tiles, or set teachers.grounding_dino.max_detections.",
    ),
}

CONTRADICTORY = frozenset(
    {
        "scaled_box",
        "corner_box",
        "center_box",
        "swapped_axes",
        "scaled_mask",
        "row_mask",
        "inverted_mask",
        "mask_without_pixel",
        "box_and_mask_differ",
        "unclear_rotation",
    }
)
"""Problems of objects that are left out because their fields contradict each other."""

COPIES = "duplicate_object"
"""Problem of annotations that are left out without loss; their number is not limited."""
