"""RF-DETR, a detector with a DINOv2 backbone."""
