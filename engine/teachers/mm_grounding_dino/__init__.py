"""MM-Grounding-DINO and LLMDet: boxes from class names."""
