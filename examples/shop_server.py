"""A shop's server that registers itself in Consul, and leaves without failing a call.

    python examples/shop_server.py --version v1
    python examples/shop_server.py --version v2 --port 50052

Stop it with Ctrl-C or SIGTERM. The Consul is the one at CONSUL_HTTP_ADDR, else the one on this machine.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

import proxyless
from proxyless.protos import shop_pb2, shop_pb2_grpc


class Products(shop_pb2_grpc.ProductsServicer):
    """Products that say who sold them."""

    def __init__(self, name: str, version: str) -> None:
        self.origin = {"served_by": name, "version": version}

    def GetProduct(self, request: shop_pb2.GetProductRequest, context: grpc.ServicerContext) -> shop_pb2.Product:
        return shop_pb2.Product(id=request.id, name=f"Teapot {request.id}", price_cents=1999, **self.origin)

    def ListProducts(
        self, request: shop_pb2.ListProductsRequest, context: grpc.ServicerContext
    ) -> Iterator[shop_pb2.Product]:
        for number in range(request.limit or 3):
            yield shop_pb2.Product(id=str(number), name=f"Teapot {number}", price_cents=1999, **self.origin)


def main() -> None:
    options = argparse.ArgumentParser(description="Serve products, as an instance of product-service.")
    options.add_argument("--port", type=int, default=0, help="where to listen; default: any free port")
    options.add_argument("--version", default="v1", help="the version it says it is")
    args = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = grpc.server(ThreadPoolExecutor(8))
    port = server.add_insecure_port(f"[::]:{args.port}")
    shop_pb2_grpc.add_ProductsServicer_to_server(Products(f"{args.version}:{port}", args.version), server)
    with proxyless.register(server, "product-service", port=port, meta={"version": args.version}):
        server.start()
        server.wait_for_termination()


if __name__ == "__main__":
    main()
