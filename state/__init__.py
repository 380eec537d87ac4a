"""What can exist, what is wanted, what is seen, and the plan between them: plain data and pure functions.

Nothing in this package does I/O, looks at a clock, draws random numbers, logs or starts threads; the
architecture tests hold it to that.
"""
