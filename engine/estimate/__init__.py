"""What a run will take: memory of a step by base and settings, and a rough estimate of its time. No torch."""
