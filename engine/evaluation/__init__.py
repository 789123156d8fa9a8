"""COCO AP of a teacher, and the report of what tuning it brought."""
