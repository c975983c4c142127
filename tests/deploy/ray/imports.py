"""What Ray's own modules warn of when they are imported is not ours to mend. No test module."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray import exceptions
    from ray.serve import exceptions as serve_exceptions
    from ray.serve import schema

    from deploy.ray import app, client, gateway, worker

__all__ = ["app", "client", "exceptions", "gateway", "schema", "serve_exceptions", "worker"]
