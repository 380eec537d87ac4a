"""Classic DRA: the negotiation with the scheduler, in which the controller allocates."""
