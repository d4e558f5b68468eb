"""The generated stubs of `shoal.v1`."""
