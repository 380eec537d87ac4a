"""The kubelet plugin: marks what pods use and tells the kubelet how the node agent has it. It decides nothing."""
