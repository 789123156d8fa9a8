"""SAM 2: masks from boxes and points in images."""
