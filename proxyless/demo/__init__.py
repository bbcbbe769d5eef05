"""The whole story in one minute, on this machine: real servers, a real Consul, real calls.

`proxyless demo` runs it; nothing in the library imports it. It uses the public interface alone, as any
program would, and it ends with exit code 0 only if what it shows is true.
"""
