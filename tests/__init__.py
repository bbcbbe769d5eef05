"""The test suite: `agent.py` runs a real Consul, `conftest.py` hands it out."""
