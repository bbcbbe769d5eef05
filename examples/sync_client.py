"""Calls the shop through the mesh: a channel for the service's name, and the generated stub as it is.

    python examples/sync_client.py --calls 100 --header x-user-tier=premium

Start examples/shop_server.py first, several of it with different versions. The mesh's documents may be
changed while this runs.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import proxyless
from proxyless.protos import shop_pb2, shop_pb2_grpc


def main() -> None:
    options = argparse.ArgumentParser(description="Get products, and count which versions they came from.")
    options.add_argument("--calls", type=int, default=100, help="how many calls to make")
    options.add_argument("--pause", type=float, default=0.0, help="seconds between two calls")
    options.add_argument("--header", action="append", default=[], metavar="KEY=VALUE", help="metadata to send")
    args = options.parse_args()
    metadata = [tuple(header.split("=", 1)) for header in args.header]

    versions: Counter[str] = Counter()
    with proxyless.connect() as mesh, mesh.channel("product-service") as channel:
        products = shop_pb2_grpc.ProductsStub(channel)
        for number in range(args.calls):
            request = shop_pb2.GetProductRequest(id=str(number))
            # Until the mesh knows the service, a call waits; the timeout is for that, too.
            product = products.GetProduct(request, timeout=5, metadata=metadata)
            versions[product.version] += 1
            time.sleep(args.pause)

        listed = [product.name for product in products.ListProducts(shop_pb2.ListProductsRequest(limit=2))]
        print("listed:", ", ".join(listed))

    for version, count in sorted(versions.items()):
        print(f"{version}: {count} of {args.calls}")


if __name__ == "__main__":
    main()
