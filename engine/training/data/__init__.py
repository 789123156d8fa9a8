"""Data of a training run: splits, batches, prompts, order of images."""
