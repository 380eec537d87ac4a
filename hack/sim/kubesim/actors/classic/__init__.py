"""Classic dynamic resource allocation, up to 1.30 and in 1.31 where asked for: a driver's controller allocates."""
