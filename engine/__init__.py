"""LoRA-tunes vision teachers on COCO data. Knows nothing of Kubernetes; imports without torch."""

from engine.processes.threads import set_thread_defaults

__version__ = "0.1.0"

set_thread_defaults()  # here, since the next import may load torch
