"""Real S3 servers as processes that a test can kill and start again.

Every process started here is stopped here, by its own handle.

Limits: no TLS, one region; none of them is Amazon's S3.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from ports import free_ports

BIN = Path(sys.executable).parent
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class S3Server:
    """Where a server listens and how to log in."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str = "pairloom-tests"
    prefix: str = ""

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }

    def client(self) -> Any:
        """A plain boto3 client straight to the server, past any proxy."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=5),
        )

    def objects(self) -> dict[str, bytes]:
        """Everything under the prefix by relative key, read with boto3."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{self.prefix}/"
        )
        keys = [one["Key"] for page in pages for one in page.get("Contents", [])]

        def read(key: str) -> bytes:
            return client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

        with ThreadPoolExecutor(8) as readers:
            found = list(readers.map(read, keys))
        names = [key.removeprefix(f"{self.prefix}/") for key in keys]
        return dict(zip(names, found, strict=True))

    def for_test(self, monkeypatch: pytest.MonkeyPatch) -> "S3Server":
        """The same server with a fresh prefix, and the environment that reaches it."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)
        return replace(self, prefix=uuid.uuid4().hex[:12])


@dataclass
class ServerProcess:
    """A server that can be killed and started again on the same disk and ports."""

    server: S3Server
    command: list[str]
    folder: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None)

    def start(self) -> None:
        log = self.folder / "server.log"
        env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._open_bucket()
                return
            except (BotoCoreError, ClientError) as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    tail = log.read_text(errors="replace")[-2000:]
                    self.kill()
                    raise RuntimeError(
                        f"{self.command[0]} did not start: {error}\n{tail}"
                    ) from error
                time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL: weed takes 10 s to say goodbye, and a crash is what tests ask for."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _open_bucket(self) -> None:
        try:
            self.server.client().create_bucket(Bucket=self.server.bucket)
        except ClientError as error:
            if "BucketAlready" not in str(error):
                raise


def moto_process(folder: Path) -> ServerProcess:
    """Quick (1 s), memory only, takes any secret."""
    (port,) = free_ports(1)
    command = [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    return ServerProcess(
        S3Server(f"http://127.0.0.1:{port}", "moto", "moto-secret"), command, folder
    )


def rclone_process(folder: Path) -> ServerProcess:
    """A gateway that ignores If-None-Match: what must be refused."""
    (port,) = free_ports(1)
    server = S3Server(f"http://127.0.0.1:{port}", "rclone", "rclone-secret")
    (folder / "data").mkdir()
    command = [str(BIN / "rclone"), "serve", "s3", "--config", "", "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{server.access_key},{server.secret_key}", str(folder / "data")]
    return ServerProcess(server, command, folder)


def seaweed_process(folder: Path) -> ServerProcess:
    """On its disk, with authentication; 3-15 s to start."""
    port, *ports = free_ports(8)
    server = S3Server(f"http://127.0.0.1:{port}", "seaweed", "seaweed-secret")
    keys = {"accessKey": server.access_key, "secretKey": server.secret_key}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities = [{"name": "tests", "credentials": [keys], "actions": actions}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    (folder / "data").mkdir()
    names = ["s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"]
    names += ["filer.port", "filer.port.grpc"]
    command = [str(BIN / "weed"), f"-logdir={folder}", "server", f"-dir={folder / 'data'}"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.port={port}"]
    command += [f"-s3.config={folder / 's3.json'}", "-master.volumeSizeLimitMB=128"]
    command += ["-volume.max=20", "-master.telemetry=false"]
    # Two servers that listen on fixed ports: with them a second weed on the machine dies at once.
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-{name}={number}" for name, number in zip(names, ports, strict=True)]
    return ServerProcess(server, command, folder)
