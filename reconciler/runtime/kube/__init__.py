"""Talking to a Kubernetes API server: raw REST, caches kept fresh by watches, events, a lease.

No knowledge of what the objects mean, and no typed models: bytes go in and out, callers decode the fields they
use. The official client is loaded only when connecting, and only in this package.
"""
