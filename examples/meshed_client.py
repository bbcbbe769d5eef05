"""A client that was written long before there was a mesh, brought into it by one line.

    python examples/meshed_client.py --calls 100

It opens its own channel to a host that need not exist. Start examples/shop_server.py first, several of it with
different versions.
"""

from __future__ import annotations

import argparse
from collections import Counter

import grpc

import proxyless
from proxyless.protos import shop_pb2, shop_pb2_grpc


@proxyless.meshed("product-service")  # the one line
class ProductClient:
    """Gets products from the shop."""

    def __init__(self, target: str = "shop.internal:50051") -> None:
        self._channel = grpc.insecure_channel(target)
        self._products = shop_pb2_grpc.ProductsStub(self._channel)

    def version_of(self, number: int) -> str:
        """Which version of the server a product comes from."""
        request = shop_pb2.GetProductRequest(id=str(number))
        version: str = self._products.GetProduct(request, timeout=5).version
        return version

    def listed(self) -> list[str]:
        """Names of the first two products."""
        return [product.name for product in self._products.ListProducts(shop_pb2.ListProductsRequest(limit=2))]

    def close(self) -> None:
        self._channel.close()


def main() -> None:
    options = argparse.ArgumentParser(description="Get products, and count which versions they came from.")
    options.add_argument("--calls", type=int, default=100, help="how many calls to make")
    args = options.parse_args()

    client = ProductClient()
    versions = Counter(client.version_of(number) for number in range(args.calls))
    print("listed:", ", ".join(client.listed()))
    client.close()

    for version, count in sorted(versions.items()):
        print(f"{version}: {count} of {args.calls}")


if __name__ == "__main__":
    main()
