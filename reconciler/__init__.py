"""The reconcilers: the node agent, the cluster controller, their common runtime and the command line."""
