"""From observed state to status and actions. Pure."""
