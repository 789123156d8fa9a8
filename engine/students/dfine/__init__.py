"""D-FINE: a small detector of boxes."""
