"""Crash tests: the node agent is killed at every change it makes to the world, and has to come out right.

The simulated kernel runs in this process and survives; what is killed is a process forked from a warm one.
"""
