"""Evaluate teachers by COCO AP, and render the report that compares base and adapted teacher."""
