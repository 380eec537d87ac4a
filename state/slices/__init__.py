"""ResourceSlices: what a node offers to schedulers, decided from its status and its manifest."""
