"""The node agent: reads the machine, applies plans to it, and says what it saw."""
