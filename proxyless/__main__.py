"""`python -m proxyless`: the command line, where the console script is not on the PATH."""

from __future__ import annotations

from proxyless.cli import main

if __name__ == "__main__":
    main()
