"""Obeys: one function per user operation. Transactions begin and end here.

Each takes the `Installation` and a `Principal`, asks ``domain/identity/access.py`` before its first write, and gives back domain
values. No transaction is open while bytes move: lease, act, record are three.
"""
