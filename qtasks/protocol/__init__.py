"""The QStash wire as values and pure functions, used by both sides: no clock, no network, no store.

One module per subject; import from the module, as nothing is re-exported here.
"""
