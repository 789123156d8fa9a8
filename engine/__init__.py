"""LoRA-tunes vision teachers on COCO data. Knows nothing of Kubernetes; imports without torch."""

__version__ = "0.1.0"
