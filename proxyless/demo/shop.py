"""One server of the shop, as a process of its own: `python -m proxyless.demo.shop --version v1`.

It prints its port, registers itself if it is told a Consul, and serves until it is told to stop.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

import proxyless
from proxyless.protos import shop_pb2, shop_pb2_grpc

SERVICE = "product-service"


class Products(shop_pb2_grpc.ProductsServicer):
    """Answers with who answered."""

    def __init__(self, name: str, version: str) -> None:
        self._name, self._version = name, version

    def GetProduct(self, request: Any, context: Any) -> Any:
        """One product."""
        return shop_pb2.Product(
            id=request.id, name=f"product {request.id}", served_by=self._name, version=self._version
        )


def main() -> None:
    """Serve until standard input ends: a demo that dies takes its servers with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", required=True)
    parser.add_argument("--register", action="store_true", help="with the Consul that CONSUL_HTTP_ADDR names")
    given = parser.parse_args()
    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    shop_pb2_grpc.add_ProductsServicer_to_server(Products(f"{given.version}-{os.getpid()}", given.version), server)
    port = server.add_insecure_port("127.0.0.1:0")
    registration: Any = contextlib.nullcontext()
    if given.register:
        registration = proxyless.register(
            server, SERVICE, port=port, address="127.0.0.1", meta={"version": given.version}, drain=0.2, grace=2.0
        )
    server.start()
    with registration:
        print(port, flush=True)
        sys.stdin.read()
    server.stop(0.5).wait()


if __name__ == "__main__":
    main()
