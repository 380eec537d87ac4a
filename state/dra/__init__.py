"""Dynamic resource allocation: what ResourceClaims mean for each node, and what to write about them.

Pure: the cluster's objects come in as data, decisions go out as data.
"""
