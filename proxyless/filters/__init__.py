"""How one call is shaped: one concern a file, one signature, `(rpc, next) -> Script[Outcome]`.

A filter that only looks and passes on is a plain function that returns its neighbour's script, so it costs a
call and no generator; one that has something to do afterwards, or must wait, is a generator. Filters read
what the snapshot and the Rpc hold and ask policies to decide. They never import each other, never touch a
clock, a thread, grpc or any I/O: what has to happen, they yield.
"""
