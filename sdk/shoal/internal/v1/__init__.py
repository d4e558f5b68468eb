"""The generated stubs of `shoal.internal.v1`."""
