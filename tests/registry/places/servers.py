"""The servers that the tests of places run on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import ClassVar

from tests.registry.places import signing
from tests.registry.places.gcs import READER
from tests.registry.places.store import (
    BUCKET,
    INSTALLED,
    KEY,
    PATIENCE,
    PYTHON,
    READ_KEY,
    READ_SECRET,
    SECRET,
    StoreServer,
    free_port,
)

BIN = Path(PYTHON).parent


class Moto(StoreServer):
    """AWS's S3 as moto imitates it. Anybody may write."""

    name = "moto"
    reading = None

    def start(self, folder: Path, owner: int) -> list[int]:
        code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{self.port}'])"
        return [self.run([PYTHON, "-c", code], folder, owner)]

    def fill(self) -> None:
        signing.put_s3(f"{self.address}/{BUCKET}", KEY, SECRET)


class SeaweedFS(StoreServer):
    """A distributed object store, in one process."""

    name = "seaweedfs"

    def start(self, folder: Path, owner: int) -> list[int]:
        users = [
            _seaweed_user("writer", KEY, SECRET, ["Admin", "Read", "List", "Tagging", "Write"]),
            _seaweed_user("reader", READ_KEY, READ_SECRET, ["Read", "List"]),
        ]
        (folder / "users.json").write_text(json.dumps({"identities": users}))
        options = {
            "dir": folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": free_port(),
            "master.port.grpc": free_port(),
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "master.electionTimeout": "1s",
            "volume.port": free_port(),
            "volume.port.grpc": free_port(),
            "filer": "true",
            "filer.port": free_port(),
            "filer.port.grpc": free_port(),
            "s3": "true",
            "s3.port": self.port,
            "s3.port.grpc": free_port(),
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": folder / "users.json",
            "s3.iam": "false",
        }
        command = [BIN / "weed", "server", *(f"-{key}={value}" for key, value in options.items())]
        return [self.run(command, folder, owner, {"GOMEMLIMIT": "300MiB", "GOGC": "50"})]

    def fill(self) -> None:
        signing.put_s3(f"{self.address}/{BUCKET}", KEY, SECRET)


def _seaweed_user(name: str, key: str, secret: str, actions: list[str]) -> dict[str, object]:
    credentials = [{"accessKey": key, "secretKey": secret}]
    return {"name": name, "credentials": credentials, "actions": actions}


class Ceph(StoreServer):
    """Ceph's S3 gateway with a monitor and a store in memory: `vstart.sh` at its smallest."""

    name = "ceph"
    _CONFIGURATION: ClassVar = """
[global]
fsid = {fsid}
mon_host = v2:127.0.0.1:{monitor}
keyring = {folder}/keyring
run_dir = {folder}
admin_socket =
log_file = {folder}/$name.log
mon_cluster_log_file = {folder}/cluster.log
crash_dir = {folder}
{plugins}
mon_data = {folder}/mon
mon_allow_pool_size_one = true
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pg_autoscale_mode = off
paxos_propose_interval = 0.01
paxos_min_wait = 0.001
rgw_data = {folder}
rgw_run_sync_thread = false
rgw_enable_gc_threads = false
rgw_enable_lc_threads = false
rgw_enable_quota_threads = false
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
"""

    def start(self, folder: Path, owner: int) -> list[int]:
        unpacked = INSTALLED / "ceph"
        environment = {"CEPH_CONF": str(folder / "ceph.conf")}
        plugins, programs = "", Path()
        if unpacked.is_dir():
            libraries = next(unpacked.glob("usr/lib/*/ceph")).parent
            paths = (libraries, libraries / "ceph", unpacked / "lib" / libraries.name)
            environment["LD_LIBRARY_PATH"] = ":".join(map(str, paths))
            programs = unpacked / "usr/bin"
            plugins = f"plugin_dir = {libraries / 'ceph'}\n"
            plugins += f"erasure_code_dir = {libraries / 'ceph/erasure-code'}\n"
            plugins += f"osd_class_dir = {libraries / 'rados-classes'}"
        fsid, monitor = str(uuid.uuid4()), free_port()
        text = self._CONFIGURATION.format(
            fsid=fsid, monitor=monitor, folder=folder, plugins=plugins, port=self.port
        )
        (folder / "ceph.conf").write_text(text)
        for part in ("mon", "osd"):
            (folder / part).mkdir()

        def tool(program: str, *arguments: str) -> None:
            command = [str(programs / program), *arguments]
            variables = os.environ | environment
            done = subprocess.run(command, env=variables, capture_output=True, timeout=PATIENCE)
            assert done.returncode == 0, (command, done.stderr)

        def user(entity: str, *caps: str) -> None:
            given = [part for cap in caps for part in ("--cap", *cap.split("=", 1))]
            tool("ceph-authtool", str(folder / "keyring"), "--gen-key", "-n", entity, *given)

        tool("ceph-authtool", "--create-keyring", str(folder / "keyring"))
        user("mon.", "mon=allow *")
        user("client.admin", "mon=allow *", "osd=allow *", "mgr=allow *")
        user("osd.0", "mon=allow profile osd", "osd=allow *")
        maps = (str(folder / "monmap"), str(folder / "osdmap"))
        tool("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"v2:127.0.0.1:{monitor}/0",
             maps[0])  # fmt: skip
        tool("osdmaptool", "--createsimple", "1", maps[1])
        tool("ceph-mon", "--mkfs", "-i", "a", "--monmap", maps[0], "--osdmap", maps[1], "--keyring",
             str(folder / "keyring"))  # fmt: skip
        groups = [self.run([programs / "ceph-mon", "-i", "a", "-f"], folder, owner, environment)]
        tool("ceph-osd", "-i", "0", "--osd-uuid", fsid, "--mkfs")
        osd = [programs / "ceph-osd", "-i", "0", "-f"]
        groups.append(self.run(osd, folder, owner, environment))
        tool("radosgw-admin", "user", "create", "--uid", "writer", "--display-name", "writer",
             "--access-key", KEY, "--secret-key", SECRET)  # fmt: skip
        tool("radosgw-admin", "subuser", "create", "--uid", "writer", "--subuser", "writer:reader",
             "--key-type", "s3", "--access", "read", "--access-key", READ_KEY,
             "--secret-key", READ_SECRET)  # fmt: skip
        gateway = [programs / "radosgw", "-n", "client.admin", "-f"]
        groups.append(self.run(gateway, folder, owner, environment))
        return groups

    def fill(self) -> None:
        signing.put_s3(f"{self.address}/{BUCKET}", KEY, SECRET)


class Azurite(StoreServer):
    """Microsoft's emulator of Azure's blob storage, with its one well-known account."""

    name = "azurite"
    ACCOUNT = "devstoreaccount1"
    ACCOUNT_KEY = (
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    )

    @property
    def url(self) -> str:
        return f"az://{BUCKET}"

    @property
    def environment(self) -> dict[str, str]:
        return self._azure | {"AZURE_STORAGE_ACCOUNT_KEY": self.ACCOUNT_KEY}

    @property
    def reading(self) -> dict[str, str]:
        token = signing.azure_reader(self.ACCOUNT, BUCKET, self.ACCOUNT_KEY)
        return self._azure | {"AZURE_STORAGE_SAS_TOKEN": token}

    @property
    def _azure(self) -> dict[str, str]:
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": self.ACCOUNT,
            "AZURE_STORAGE_ENDPOINT": f"{self.address}/{self.ACCOUNT}",
        }

    def start(self, folder: Path, owner: int) -> list[int]:
        installed = INSTALLED / "azurite"
        node = shutil.which("node") or installed / "node" / "bin" / "node"
        main = installed / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
        options = ("--inMemoryPersistence", "--skipApiVersionCheck", "--silent")
        where = ("--blobHost", "127.0.0.1", "--blobPort", str(self.port))
        command = [node, main, *options, "--disableTelemetry", *where]
        return [self.run(command, folder, owner)]

    def fill(self) -> None:
        signing.put_azure(f"{self.address}/{self.ACCOUNT}/{BUCKET}", self.ACCOUNT, self.ACCOUNT_KEY)


class GoogleStorage(StoreServer):
    """The XML API of Google Cloud Storage as it is documented; see `gcs`."""

    name = "gcs"

    @property
    def url(self) -> str:
        return f"gs://{BUCKET}"

    @property
    def environment(self) -> dict[str, str]:
        return {"GOOGLE_BASE_URL": self.address, "GOOGLE_BEARER_TOKEN": "writer"}

    @property
    def reading(self) -> dict[str, str]:
        return {"GOOGLE_BASE_URL": self.address, "GOOGLE_BEARER_TOKEN": READER}

    def start(self, folder: Path, owner: int) -> list[int]:
        command = [PYTHON, "-m", "tests.registry.places.gcs", str(self.port)]
        return [self.run(command, folder, owner)]


class Rclone(StoreServer):
    """``rclone serve s3``: it overwrites where it is asked not to."""

    name = "rclone"
    heeds = False
    reading = None

    def start(self, folder: Path, owner: int) -> list[int]:
        (folder / "data" / BUCKET).mkdir(parents=True)
        address = ("--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{KEY},{SECRET}")
        command = [BIN / "rclone", "serve", "s3", *address, folder / "data"]
        return [self.run(command, folder, owner)]


SERVERS = {
    server.name: server for server in (Moto, SeaweedFS, Ceph, Azurite, GoogleStorage, Rclone)
}
HEEDING = [name for name, server in SERVERS.items() if server.heeds]
