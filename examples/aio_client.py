"""Calls the shop through the mesh from asyncio, many calls at a time.

    python examples/aio_client.py --calls 1000 --at-once 50

Start examples/shop_server.py first, several of it with different versions.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter

import proxyless
from proxyless.protos import shop_pb2, shop_pb2_grpc


async def get_products(calls: int, at_once: int) -> Counter[str]:
    """The versions that `calls` calls were served by."""
    versions: Counter[str] = Counter()
    numbers = iter(range(calls))
    with proxyless.connect() as mesh:
        async with mesh.aio_channel("product-service") as channel:
            products = shop_pb2_grpc.ProductsStub(channel)

            async def worker() -> None:
                for number in numbers:
                    request = shop_pb2.GetProductRequest(id=str(number))
                    product = await products.GetProduct(request, timeout=5)
                    versions[product.version] += 1

            await asyncio.gather(*(worker() for _ in range(at_once)))

            everything = products.ListProducts(shop_pb2.ListProductsRequest(limit=2))
            print("listed:", ", ".join([product.name async for product in everything]))
    return versions


def main() -> None:
    options = argparse.ArgumentParser(description="Get products, and count which versions they came from.")
    options.add_argument("--calls", type=int, default=100, help="how many calls to make")
    options.add_argument("--at-once", type=int, default=10, help="how many of them at a time")
    args = options.parse_args()
    versions = asyncio.run(get_products(args.calls, args.at_once))
    for version, count in sorted(versions.items()):
        print(f"{version}: {count} of {args.calls}")


if __name__ == "__main__":
    main()
