"""The store: verbs over an open `Session`, the SQL they run, and the databases that run it.

A verb is a plain synchronous function: it reads and writes, and knows neither HTTP nor policy.
"""
