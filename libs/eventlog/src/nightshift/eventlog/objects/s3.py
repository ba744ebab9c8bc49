"""The object store on S3 and compatible servers. Calls of boto3 block, so each runs in a thread."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Self, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from nightshift.eventlog.backoff import Backoff, RetryDelay
from nightshift.eventlog.errors import ConfigurationError, Fault, NightshiftError, NotFound, Unavailable
from nightshift.eventlog.objects.port import ObjectInfo, check_key
from nightshift.eventlog.settings import ObjectStoreSettings

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

T = TypeVar("T")

#: The most calls at the same time. Each uses a thread and a connection.
_THREADS = 16
#: How often a call is tried. botocore retries 5xx answers and lost connections; S3ObjectStore retries write conflicts.
_ATTEMPTS = 5
#: The delays after a conditional write that met another write of the same key.
_BACKOFF = Backoff(first_s=0.05, cap_s=1.0)

_MISSING = {"NoSuchKey", "404", "NotFound"}
_MISCONFIGURED = {
    "NoSuchBucket",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AuthorizationHeaderMalformed",  # another region than the bucket's
    "AllAccessDisabled",
    "PermanentRedirect",
    "403",
}


class _Conflict(Exception):
    """The server answered 409, because another write of the same key runs at the same time. The write must be tried
    again.
    """


class S3ObjectStore:
    """The ObjectStore port on one S3 bucket. Use it as an async context manager, or call `close` at the end."""

    def __init__(self, settings: ObjectStoreSettings) -> None:
        self._settings = settings
        self._bucket = settings.s3_bucket
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="s3")
        self._client: S3Client | None = None
        self._making = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._ready()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for the running calls, then end the threads and close the client."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        if self._client is not None:
            await asyncio.to_thread(self._client.close)

    async def put(self, key: str, body: bytes) -> None:
        await self._call(lambda s3: s3.put_object(Bucket=self._bucket, Key=check_key(key), Body=body))

    async def put_if_absent(self, key: str, body: bytes) -> bool:
        check_key(key)

        def write(s3: "S3Client") -> bool:
            try:
                s3.put_object(Bucket=self._bucket, Key=key, Body=body, IfNoneMatch="*")
            except ClientError as error:
                if _status(error) == 412:
                    return False
                if _status(error) == 409:
                    raise _Conflict from error
                raise
            return True

        return await self._call(write)

    async def get(self, key: str) -> bytes:
        return await self._call(
            lambda s3: s3.get_object(Bucket=self._bucket, Key=check_key(key))["Body"].read()
        )

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return up to `length` bytes from the offset `start`. Returns fewer when the object ends earlier."""
        check_key(key)
        if length == 0:
            return b""

        def read(s3: "S3Client") -> bytes:
            span = f"bytes={start}-{start + length - 1}"
            try:
                return s3.get_object(Bucket=self._bucket, Key=key, Range=span)["Body"].read()
            except ClientError as error:
                if _status(error) == 416:  # the range begins behind the end of the object
                    return b""
                raise

        return await self._call(read)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        more: dict[str, Any] = {}
        while True:
            page = await self._call(
                methodcaller("list_objects_v2", Bucket=self._bucket, Prefix=prefix, **more)
            )
            for item in page.get("Contents", ()):
                yield ObjectInfo(item["Key"], item["Size"])
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    async def delete(self, key: str) -> None:
        await self._call(lambda s3: s3.delete_object(Bucket=self._bucket, Key=check_key(key)))

    async def _ready(self) -> "S3Client":
        async with self._making:
            if self._client is None:
                loop = asyncio.get_running_loop()
                self._client = await loop.run_in_executor(self._threads, _make_client, self._settings)
            return self._client

    async def _call(self, work: Callable[["S3Client"], T]) -> T:
        """Run `work` with the S3 client in a thread and return its result. Runs it again when the server reports a
        conflict with another write.

        Raises our own errors in place of boto3's.
        """
        client = self._client or await self._ready()
        loop = asyncio.get_running_loop()
        retry = RetryDelay(_BACKOFF, random.random)
        for _ in range(_ATTEMPTS):
            try:
                return await loop.run_in_executor(self._threads, work, client)
            except _Conflict:
                await asyncio.sleep(retry.after_failure())
            except (ClientError, BotoCoreError, OSError) as error:
                raise _translate(error) from error
        raise Unavailable(f"S3: {_ATTEMPTS} times another writer of the same key was in flight")


def _make_client(settings: ObjectStoreSettings) -> "S3Client":
    secret = settings.s3_secret_key
    custom = settings.s3_endpoint is not None
    # boto3's newer default checksums become part of the object on some servers other than Amazon's.
    checksums: Any = {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=None if secret is None else secret.get_secret_value(),
        config=Config(
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=_THREADS,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            s3={"addressing_style": "path"} if custom else None,
            **(checksums if custom else {}),
        ),
    )


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _translate(error: Exception) -> NightshiftError:
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _MISSING:
            return NotFound(f"S3: {error}")
        if code in _MISCONFIGURED:
            hint = "create the bucket" if code == "NoSuchBucket" else "check the NIGHTSHIFT_S3_ variables"
            return ConfigurationError(f"S3: {error}", hint=hint)
        if _status(error) >= 500 or _status(error) == 429 or code in {"SlowDown", "RequestTimeout"}:
            return Unavailable(f"S3: {error}")
        return Fault(f"S3: {error}")
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return ConfigurationError(
            f"S3: {error}",
            hint="set NIGHTSHIFT_S3_ACCESS_KEY and NIGHTSHIFT_S3_SECRET_KEY, or give the process an IAM role",
        )
    return Unavailable(f"S3: {error}")
