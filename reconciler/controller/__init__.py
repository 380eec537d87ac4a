"""The cluster controller: projects what claims were allocated into the GpuNodeState of each node."""
