"""What the mesh tells OpenTelemetry: a span and a duration per call, its attempts, and how the mesh itself stands.

Nothing here decides anything, and nothing is exported unless the application set an SDK up. Of ours only `events` may
be imported; of OpenTelemetry's only the API, and that not before somebody uses it. Never put here: anything that a call
would wait for.
"""
