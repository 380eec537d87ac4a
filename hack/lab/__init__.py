"""A small cluster on one machine, for tests, the demonstration and measuring: simulated API server and GPUs, real
controller, node agents and kubectl.
"""
