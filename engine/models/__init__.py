"""What all models share: base files, adapters, loading, cached features."""
