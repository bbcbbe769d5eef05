"""Deadlines in, registration out: what a program needs that is called through the mesh.

With channel/ the only folder that has heard of grpc. It knows nothing of filters, policies or the control
plane's inner parts: a server is not a client.
"""
