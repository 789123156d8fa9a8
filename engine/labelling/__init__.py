"""Label a folder of images of any size as a stream: list, fetch, predict and write::

from engine.labelling import label_folder
from engine.teachers import load_labeller
label_folder(load_labeller("s3://acme-models/forklifts/forklifts/4f2a90c1d3e5"), "images/", "labels.json")
"""

from engine.labelling.overlays import Overlays
from engine.labelling.pipeline import Labelled, Progress, label_folder

__all__ = ["Labelled", "Overlays", "Progress", "label_folder"]
