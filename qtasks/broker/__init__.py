"""The broker: keeps messages, delivers them over HTTP or in process, settles what came of them.

It knows nothing of tasks and nothing of the client; the rooms in `home/` bring them together.
"""
