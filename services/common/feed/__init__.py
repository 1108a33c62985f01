"""Change feeds: a snapshot, then every change in order, deletions included, over Server-Sent Events.

`outbox` writes a change in the transaction that makes it, `server` streams them, `client` follows a stream and holds
the state. What travels is in `wire`. Each service has one feed over its database, with a few topics (mdb: machines,
switches...); one revision counts all of them, so a subscriber of two topics sees them in one order.

What a subscriber may rely on: after each batch, its state equals the owner's database at the batch's revision, for the
topics that it follows; across reconnects, restarts of both ends, and gaps longer than the log.
"""
