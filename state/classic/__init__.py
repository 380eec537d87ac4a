"""Classic dynamic resource allocation: our own controller allocates, and negotiates with the scheduler."""
