"""The internal gRPC: generated code, the worker's client and server shells."""
