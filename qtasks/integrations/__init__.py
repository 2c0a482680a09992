"""One module for each library that an app may use beside ours; each is imported by the app alone.

Nothing in qtasks imports them, so that none of these libraries has to be there.
"""
