"""What both ends of the wire need: limits, checks, and the translation of values.

Nothing here imports gRPC; the client and the server use the same code, so that what one
encodes the other decodes, and what the server refuses the client can refuse before it sends.
"""
