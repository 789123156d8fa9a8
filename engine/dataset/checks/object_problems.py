"""Problems of objects whose box, mask, area, class and crowd flag do not fit each other."""

from __future__ import annotations

from engine.dataset.types import Severity

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

OBJECT_PROBLEMS: dict[str, tuple[Severity, str, str]] = {
    "scaled_box": (
        WARNING,
        "Boxes are in other units than pixels of their image, as shares or percents of it; they are left out.",
        "These look normalised: multiply x and width by the image's width, y and height by its height.",
    ),
    "scaled_boxes": (
        ERROR,
        "The boxes of the whole file are in other units than pixels, such as shares or percents of their image.",
        "These look normalised: multiply x and width by the image's width, y and height by its height.",
    ),
    "corner_box": (
        WARNING,
        "Boxes fit their mask or image if they are two corners, not a corner and a size; they are left out.",
        "Write bbox as [x, y, width, height]: subtract the first corner from the second.",
    ),
    "corner_boxes": (
        ERROR,
        "The boxes of the file are two corners, not a corner and a size: only then do they fit their images and areas.",
        "Write bbox as [x, y, width, height]: subtract the first corner from the second.",
    ),
    "center_box": (
        WARNING,
        "Boxes fit their mask if they begin with the center, not with the top left corner; they are left out.",
        "Write bbox as [x, y, width, height]: subtract half of the size from the center.",
    ),
    "swapped_boxes": (
        ERROR,
        "Boxes of the file have x and y swapped, or its images width and height: only then do they fit their images.",
        "Write bbox as [x, y, width, height], x to the right and y down, and the size of the images that are there.",
    ),
    "center_boxes": (
        ERROR,
        "Boxes of the file begin with the center, not with the top left corner: only then do they fit their images.",
        "Write bbox as [x, y, width, height]: subtract half of the size from the center.",
    ),
    "swapped_axes": (
        WARNING,
        "Box and mask fit each other if x and y, or width and height, are swapped in one; these objects are left out.",
        "Write bbox as [x, y, width, height] and polygons as [x1, y1, x2, y2, ...], x to the right and y down.",
    ),
    "scaled_mask": (
        WARNING,
        "Masks are in other units than their boxes, such as shares of the image or pixels of a resized one; "
        "these objects are left out.",
        "Write boxes and polygons in pixels of the image that is listed; if polygons are normalised, multiply x by its "
        "width and y by its height.",
    ),
    "row_mask": (
        WARNING,
        "Run lengths fit their boxes if they go by rows; COCO's go down the columns. These objects are left out.",
        "Encode the masks in column-major (Fortran) order, as pycocotools does, with size as [height, width].",
    ),
    "inverted_mask": (
        WARNING,
        "Run lengths mark all but the object; these objects are left out.",
        "The first count is that of pixels outside: begin with 0 if the first pixel is set.",
    ),
    "mask_without_pixel": (
        WARNING,
        "Masks cover no pixel of their image; these objects are left out.",
        "Draw the outline again, or check that polygons are in pixels.",
    ),
    "box_and_mask_differ": (
        WARNING,
        "The mask lies mostly outside its box, or covers next to nothing of it; these objects are left out.",
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
        "Remove the copies, as of exports that were merged.",
    ),
    "near_duplicate": (
        WARNING,
        "Objects of one class have nearly the same box in the same image; all of them are used.",
        "Remove those that are the same object.",
    ),
    "box_with_two_classes": (
        INFO,
        "The same box has two classes; both are used, though at most one can be found well.",
        "Give each object one class.",
    ),
    "shifted_category_ids": (
        ERROR,
        "The category ids of annotations look shifted by one from those of the categories: some are not listed, and "
        "all would be if each were one more or less. So objects would have the wrong class.",
        "Count category_id as the ids under categories are counted.",
    ),
    "shifted_image_ids": (
        ERROR,
        "The image ids of annotations look shifted by one from those of the images: some are not listed, and all would "
        "be if each were one more or less. So objects would be in the wrong image.",
        "Count image_id as the ids under images are counted; if only images are missing, remove their annotations.",
    ),
    "annotated_heading": (
        WARNING,
        "Objects have the class that is only the heading of the others, as Roboflow writes it, and the last class has "
        "none: category ids may be shifted by one, so that objects have the wrong class.",
        "Look at some objects; count category_id as the ids under categories are counted.",
    ),
    "objects_as_crowds": (
        WARNING,
        "Annotations with iscrowd: 1 look like single objects, marked only because their masks are run lengths; they "
        "are neither learned nor evaluated.",
        "Set dataset.crowds: Objects (--crowds Objects) to take them as objects.",
    ),
    "over_100_objects": (
        INFO,
        "Images hold more than 100 objects of a class; AP counts the best 100 detections of each image and class, so "
        "that it has a ceiling.",
        "Compare AP with that ceiling, or cut the images into tiles.",
    ),
    "over_300_objects": (
        INFO,
        "Images hold more than 300 objects; labels and predictions have at most 300 of an image.",
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
"""Objects that are left out because their fields contradict each other."""

COPIES = "duplicate_object"
"""Problem of annotations that are left out without any loss: their number is not limited."""
