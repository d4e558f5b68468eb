"""The stores that are measured, each by its own client."""
