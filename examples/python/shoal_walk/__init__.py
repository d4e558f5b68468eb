"""A walk through Shoal by its gRPC stubs alone."""
