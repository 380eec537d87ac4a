"""The coverage-guided half of `hack/fuzz`."""
