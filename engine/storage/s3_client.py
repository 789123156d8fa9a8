"""Creates the boto3 client: endpoint, certificates, retries, and adaptations for stores other than AWS."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from engine.spec import AddressingStyle
from engine.storage.endpoints import check_endpoint
from engine.storage.options import StorageOptions
from engine.storage.s3_hosts import BucketHosts, requester_pays
from engine.storage.s3_stream import READ_SIZE, md5
from engine.storage.transfer import THREADS

if TYPE_CHECKING:
    from botocore.session import Session
    from mypy_boto3_s3 import S3Client

PARTS = 4
"""Parts of one large object that are transferred in parallel."""

AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")


def is_aws(client: S3Client) -> bool:
    """Return True if a client connects to AWS."""
    return (urlsplit(client.meta.endpoint_url).hostname or "").endswith(AWS_HOSTS)


def connect(options: StorageOptions, say: Callable[[str], None], *, timeouts: tuple[float, float]) -> S3Client:
    """Create a client.

    Args:
        options: Connection options.
        say: Receives a message for each retry of a request.
        timeouts: Seconds to connect, and to wait for a byte.

    Raises:
        ConfigError: Connecting to the endpoint is not allowed, or an option is invalid.
    """
    import boto3
    from botocore.config import Config
    from botocore.session import Session

    from engine.storage.credentials import Chain
    from engine.storage.retries import ATTEMPTS, Retries

    core, chain = Session(), Chain()
    core.register_component("credential_provider", chain)
    session = boto3.session.Session(botocore_session=core)
    retries = Retries(core.get_config_variable("max_attempts") or ATTEMPTS, say, chain.renew)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=timeouts[0],
        read_timeout=timeouts[1],
        max_pool_connections=THREADS * PARTS,
    )

    def make(config: Config) -> S3Client:
        client = session.client(
            "s3",
            endpoint_url=options.endpoint_url,
            region_name=options.region,
            config=config,
            verify=options.ca_bundle,
        )
        if options.requester_pays:
            client.meta.events.register("before-call.s3", requester_pays)
        retries.register(client.meta.events)
        return client

    style = _addressing_style(options, core)
    client = make(config)
    # The environment and the AWS configuration may set the endpoint too: botocore knows their precedence.
    if is_aws(client):
        if style is not AddressingStyle.AUTO:
            client = make(
                config.merge(Config(s3={"addressing_style": "path" if style is AddressingStyle.PATH else "virtual"}))
            )
        return client
    check_endpoint(client.meta.endpoint_url)
    # Few other stores have a host name per bucket, or support the default checksums of AWS.
    other = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    client = make(config.merge(other))
    BucketHosts(style).register(client.meta.events)
    for operation in ("PutObject", "UploadPart"):
        client.meta.events.register(f"before-call.s3.{operation}", _add_content_md5)
    return client


def _addressing_style(options: StorageOptions, core: Session) -> AddressingStyle:
    """Return the style that the options or the AWS configuration set."""
    style = options.addressing_style or AddressingStyle.AUTO
    if style is AddressingStyle.AUTO:
        style = AddressingStyle((core.get_scoped_config().get("s3") or {}).get("addressing_style") or style)
    return style


def _add_content_md5(params: Any, **_: Any) -> None:
    """Add an MD5 so that the store detects corruption: also supported by stores without the newer checksums."""
    body, digest = params["body"], md5()
    if isinstance(body, bytes | bytearray):
        digest.update(body)
    else:
        start = body.tell()
        while piece := body.read(READ_SIZE):
            digest.update(piece)
        body.seek(start)
    params["headers"]["Content-MD5"] = base64.b64encode(digest.digest()).decode()
