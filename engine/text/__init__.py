"""Safe reading and writing of JSON, YAML and text for terminals."""
