"""The generated stubs of `shoal.internal`."""
