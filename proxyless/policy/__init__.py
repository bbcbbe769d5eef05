"""How we decide: arithmetic on values. `now` and `rng` are arguments; no clock, chance, lock or I/O is here.

Each file is one decision and imports none of its siblings, so that each can be read, tested and replaced
alone. Never put here: anything that waits, anything that is shared between threads without its owner's lock.
"""
