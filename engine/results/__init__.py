"""Results of a run: metrics, events, outcome, model card."""
