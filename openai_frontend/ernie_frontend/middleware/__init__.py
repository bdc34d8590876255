"""ASGI middleware, in the order of ``app``: what every request passes before its route."""
