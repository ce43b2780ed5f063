"""Engines: lists in, lists out. Each imports its framework only when it is built."""
