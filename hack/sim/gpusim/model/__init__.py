"""The simulated kernel: pure Python, in memory, without any file or socket of the real machine."""
