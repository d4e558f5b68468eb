"""Shoal: the Python client of the vector-collection database."""
