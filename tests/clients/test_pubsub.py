"""google-cloud-pubsub, against a stand-in made of its own messages: google-api-core's habits with it."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from tests.clients.conftest import Adopt
from tests.clients.town import Town, needs

needs("google.pubsub_v1", "google.cloud.pubsub_v1")

from google.api_core.exceptions import Aborted  # noqa: E402
from google.cloud import pubsub_v1  # noqa: E402
from google.pubsub_v1 import PublisherAsyncClient, PublisherClient, SubscriberClient  # noqa: E402
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport  # noqa: E402
from google.pubsub_v1.types import pubsub  # noqa: E402

TARGET = "pubsub.test:8085"
TOPIC = "projects/p/topics/t"


def _pubsub(server: grpc.Server, name: str) -> None:
    """Publishes into the void, under ids that say who did; and streams one message to whoever pulls."""

    def publish(request: Any, _context: Any) -> Any:
        return pubsub.PublishResponse(message_ids=[name] * len(request.messages))

    def topics(_request: Any, _context: Any) -> Any:
        return pubsub.ListTopicsResponse(topics=[pubsub.Topic(name=f"projects/p/topics/{name}")])

    def pull(requests: Any, _context: Any) -> Any:
        next(requests)
        message = pubsub.PubsubMessage(message_id=name, data=b"m")
        yield pubsub.StreamingPullResponse(received_messages=[pubsub.ReceivedMessage(message=message)])

    publisher = {
        "Publish": grpc.unary_unary_rpc_method_handler(
            publish, pubsub.PublishRequest.deserialize, pubsub.PublishResponse.serialize
        ),
        "ListTopics": grpc.unary_unary_rpc_method_handler(
            topics, pubsub.ListTopicsRequest.deserialize, pubsub.ListTopicsResponse.serialize
        ),
    }
    subscriber = {
        "StreamingPull": grpc.stream_stream_rpc_method_handler(
            pull, pubsub.StreamingPullRequest.deserialize, pubsub.StreamingPullResponse.serialize
        )
    }
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", publisher),
            grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", subscriber),
        )
    )


@pytest.fixture
def town(town: Town, monkeypatch: pytest.MonkeyPatch) -> Town:
    """With three of them, and the library told of an emulator that does not exist."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", TARGET)
    town.stand_ins(_pubsub)
    return town


def _message() -> Any:
    return pubsub.PubsubMessage(data=b"m")


def test_sync(town: Town, brought: Adopt) -> None:
    """The generated client, with google-api-core's retries and timeouts around every method."""
    client = brought(PublisherClient, TARGET)
    town.lives(lambda: client.publish(topic=TOPIC, messages=[_message()]).message_ids[0])


def test_asyncio(town: Town, brought: Adopt) -> None:
    """Its asyncio sister, which puts interceptors of its own into the lists of the channel it was given."""

    async def begin() -> Any:
        client = brought(PublisherAsyncClient, TARGET)

        async def call() -> str:
            return str((await client.publish(topic=TOPIC, messages=[_message()])).message_ids[0])

        return call

    town.lives_on_a_loop(begin)


def test_the_batching_publisher(town: Town, brought: Adopt) -> None:
    """The client that people use: it publishes from threads of its own, long after it was made."""
    client = brought(pubsub_v1.PublisherClient, TARGET)
    town.lives(lambda: client.publish(TOPIC, b"m").result(timeout=10.0))
    client.stop()


def test_streams_both_ways(town: Town, brought: Adopt) -> None:
    """StreamingPull: each stream goes to one server, the next perhaps to another."""
    client = brought(SubscriberClient, TARGET)

    def pulled() -> str:
        request = pubsub.StreamingPullRequest(subscription="projects/p/subscriptions/s", stream_ack_deadline_seconds=10)
        (response,) = client.streaming_pull(requests=iter([request]))
        return str(response.received_messages[0].message.message_id)

    town.lives(pulled)


def test_interceptors_around_a_channel_of_its_own(town: Town) -> None:
    """proto-plus keeps its services from protobuf's pool: calls stay on the channel, by the document's policies."""
    document = {"routes": [{"name": "only", "fault": {"abort": {"percent": 100, "status": "ABORTED"}}}]}
    with grpc.insecure_channel(town.address("b")) as bare:
        channel = grpc.intercept_channel(bare, *town.mesh.interceptors(town.service))
        client = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        assert {client.publish(topic=TOPIC, messages=[_message()]).message_ids[0] for _ in range(5)} == {"b"}
        town.document(document)
        with pytest.raises(Aborted, match="proxyless: fault"):
            client.publish(topic=TOPIC, messages=[_message()], retry=None)
