"""Generates the custom resource definitions in deploy/crd from the types in state/."""
