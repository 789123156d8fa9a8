"""Exported models that are measured in the runtime they are made for.

source        the model, and the images to measure it on
targets       formats: runtime, numbers, allowed loss, settings from the strongest to the gentlest
export        a graph of torch to ONNX, folded and described
convert       ONNX to 16 bit, 8 bit (NNCF) and OpenVINO
card          description in an artifact: input, preprocessing, outputs, classes
runtimes      ONNX Runtime and OpenVINO behind one interface
artifact      an artifact as a predictor: images to detections
benchmark     latency, and the precision that really ran
measure       builds and measures one format, setting by setting
optimize      the whole: export, measure, publish or refuse
detect        example that is published next to an artifact; imports nothing of this package
packages      imports of the extra ``optimize``
"""
