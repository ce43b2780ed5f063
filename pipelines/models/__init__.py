"""`pairloom models`: mirrors of models, with what is in them, to run from without the hub.

`fetch` and `verify` are the verbs; nothing is imported here, as the command line needs only the
words of `verb` to begin with.
"""
