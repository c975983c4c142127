"""The process that owns the device: scheduler, loop, RPC."""
