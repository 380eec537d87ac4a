"""Generates the custom resource definition of GpuNodeState from the types of its manifest and status."""
