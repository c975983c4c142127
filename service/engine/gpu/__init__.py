"""A round on a GPU: what lies between its matrix products, in a few dozen kernels of Triton.

Each says of which function of `service.engine` it is a version; that one says what is computed, and writes the lists
wherever there is no GPU. There it is a thousand small operators, whose starts alone would take longer than the target's
pass. Sampled lists, and drafts that guess code by code, go the slow way where `steps` says so.
"""
