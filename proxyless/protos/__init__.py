"""The demo's and the tests' services, as `make protos` generates them; nothing in the library imports this.

Never put here: code written by hand. Generated code refuses a grpcio or protobuf older than its generator, so
the demo asks for newer ones than the library does.
"""
