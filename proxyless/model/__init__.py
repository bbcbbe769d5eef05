"""What we know: values that are frozen, compared by value and checked when they are built.

Everything the mesh can be told (documents, endpoints) and everything it makes of that (the snapshot) is a
type here. Each value is defined once: the same dataclass is what a document decodes into, what the JSON
Schema is generated from and what the data path reads. Nothing here may import anything else of ours, nor
know a clock, chance, a thread or grpc. Never put here: parsing of text, defaults that depend on the
environment, anything that changes.
"""
