"""SAM: masks from boxes."""
