"""The kubelet plugin: marks what pods use, and tells the kubelet what the node agent made of it. It decides nothing."""
