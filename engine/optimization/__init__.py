"""Exported models that are measured in the runtime they are made for.

optimize      the whole: export, convert, measure, publish or refuse
targets       formats: runtime, numbers, allowed loss, settings from the strongest to the gentlest
export        a graph of torch to ONNX, folded and described
convert       ONNX to 16 bit, 8 bit (NNCF) and OpenVINO
card          description in an artifact: input, preprocessing, outputs, classes
runtimes      ONNX Runtime and OpenVINO behind one interface
artifact      an artifact as a predictor: images to detections
benchmark     latency and the precision that really ran
publish       the folder of artifacts: files, their measurements, and an example
packages      the packages of the extra ``optimize``
"""
