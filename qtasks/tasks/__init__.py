"""What an application sees: tasks, the envelopes their calls travel in, execution and results.

Knows nothing of the broker; the two meet in `qtasks.home`.
"""
