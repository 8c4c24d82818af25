"""The operations of users and of the system, with a public function for each operation.

An operation gets the `Installation` and a `Principal`, checks rights (`domain/identity/access.py`) before the first
write, and returns values of the domain. Transactions begin and end here. No transaction is open while bytes are
transferred.
"""
