"""The bounds that transfers are held against: bare copies between two processes, and curl from
nginx.

- `tls_disk_copy`: pread, TLS 1.3 over Python's ssl, pwrite; nothing is verified. What is left to
  any program in Python.
- `tls_disk_copy(is_complete=True)`: the same, then SHA-256 of the file as it lies on disk, and a
  sync, side by side.
- `curl_copy`: nginx and curl over HTTPS, as people would do it without us; nothing is verified.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from p2phub.net.lane_certificate import certificate_pem
from tests.benchmarks.measuring import MIB, Stopwatch, rate_mb_s, settle, side

BLOCK_BYTES = MIB


def make_certificate(folder: Path) -> Path:
    """A self-signed P-256 certificate with its key, in one PEM file."""
    path = folder / "certificate.pem"
    pem, _ = certificate_pem()
    path.write_bytes(pem)
    return path


def tls_disk_copy(
    source: Path, target: Path, certificate: Path, *, is_complete: bool = False
) -> float:
    """MB/s of a bare copy of `source` to `target` over TLS between two processes on loopback."""
    target.unlink(missing_ok=True)
    settle()
    with side(_send_bare, str(source), str(certificate)) as sender:
        port = sender.receive()
        with side(_receive_bare, port, str(target), is_complete) as receiver:
            seconds = receiver.receive()
    size = source.stat().st_size
    assert target.stat().st_size == size
    return rate_mb_s(size, seconds)


def _send_bare(pipe: Connection, source: str, certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(certificate)
    descriptor = os.open(source, os.O_RDONLY)
    block = memoryview(mmap.mmap(-1, BLOCK_BYTES))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        pipe.send(listening.getsockname()[1])
        connected, _ = listening.accept()
        with context.wrap_socket(connected, server_side=True) as tls:
            start = 0
            while count := os.preadv(descriptor, [block], start):
                tls.sendall(block[:count])
                start += count


def _receive_bare(pipe: Connection, port: int, target: str, is_complete: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    block = memoryview(mmap.mmap(-1, BLOCK_BYTES))
    watch = Stopwatch()
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT)
    with (
        socket.create_connection(("127.0.0.1", port)) as connected,
        context.wrap_socket(connected) as tls,
    ):
        start, is_over = 0, False
        while not is_over:
            got = 0
            while got < BLOCK_BYTES and not is_over:
                count = tls.recv_into(block[got:])
                got += count
                is_over = not count
            start += os.pwrite(descriptor, block[:got], start)
    if is_complete:
        syncing = threading.Thread(target=os.fsync, args=(descriptor,))
        syncing.start()
        with open(target, "rb") as file:
            hashlib.file_digest(file, "sha256")
        syncing.join()
    pipe.send(watch.wall_s)
    os.close(descriptor)


# ---- curl from nginx -----------------------------------------------------------------------------


def curl_is_there() -> bool:
    return shutil.which("nginx") is not None and shutil.which("curl") is not None


@contextmanager
def https_server(folder: Path, certificate: Path, home: Path) -> Iterator[str]:
    """nginx over HTTPS on loopback, one worker per core, serving `folder`; its URL.

    home: a new folder for nginx's own files.
    """
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = home / "nginx.conf"
    settings.write_text(
        f"""
        user root;
        worker_processes auto;
        pid {home}/pid;
        error_log {home}/errors;
        events {{ }}
        http {{
            access_log off;
            sendfile on;
            client_body_temp_path {home}/body;
            proxy_temp_path {home}/proxy;
            fastcgi_temp_path {home}/fastcgi;
            uwsgi_temp_path {home}/uwsgi;
            scgi_temp_path {home}/scgi;
            server {{
                listen 127.0.0.1:{port} ssl;
                ssl_protocols TLSv1.3;
                ssl_certificate {certificate};
                ssl_certificate_key {certificate};
                root {folder};
            }}
        }}
        """
    )
    nginx = subprocess.Popen(["nginx", "-e", "stderr", "-c", str(settings), "-g", "daemon off;"])
    try:
        _wait_for_port(port, nginx)
        yield f"https://127.0.0.1:{port}"
    finally:
        nginx.terminate()
        nginx.wait()


def curl_copy(url: str, target: Path) -> float:
    """MB/s of curl fetching `url` into `target`."""
    target.unlink(missing_ok=True)
    settle()
    watch = Stopwatch()
    subprocess.run(["curl", "-ksSf", "-o", str(target), url], check=True)
    return rate_mb_s(target.stat().st_size, watch.wall_s)


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.01)
    raise RuntimeError("nginx did not start")
