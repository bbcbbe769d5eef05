"""How we act: grpc channels that perform scripts. The only folder, with server/, that has heard of grpc.

A shell translates (call arguments to an Rpc, grpc's errors to Outcomes), performs effects, and hands the
answer over; it decides nothing. Sync and asyncio are written out apart because they differ in kind (threads
and callbacks, tasks and awaitables), and there is nothing left in them worth sharing: what could be decided
differently is in the scripts. Never put here: a retry, a choice, a default.
"""
