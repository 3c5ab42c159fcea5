"""TLS in front by `deploy/nginx.conf`, with a real nginx on loopback, under a sub-path: page, clients, streams, cookies."""

from __future__ import annotations

import http.client
import ipaddress
import itertools
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.compat.test_hub_clients import run_client
from tests.conftest import REPOSITORY, RunningFust, free_port, start_fust

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
NAME = "ai.example.org"


@dataclass
class Proxied:
    """A Fust behind nginx."""

    fust: RunningFust
    port: int
    certificate: Path
    folder: Path

    def send(
        self, method: str, path: str, body: bytes | None = None, *, host: str = NAME, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.check_hostname = False
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=60)
        fields = {"Host": host} | {key.replace("_", "-"): value for key, value in headers.items()}
        try:
            connection.request(method, path, body, fields)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


def make_certificates(certificate: Path, key: Path) -> Path:
    """Writes a certificate for the proxy, of an authority made for it; returns the authority's own certificate."""

    def named(
        name: str, authority: bool, of: x509.Name | None, signer: ec.EllipticCurvePrivateKey
    ) -> x509.Certificate:
        now, own = datetime.now(UTC), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [
            x509.DNSName(NAME),
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        builder = x509.CertificateBuilder(own if of is None else of, own, public, x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=2))
        builder = builder.add_extension(x509.BasicConstraints(authority, None), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(signer, hashes.SHA256())

    signer, private = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    public = signer.public_key()
    root = named("Test authority", True, None, signer)
    public = private.public_key()
    leaf = named(NAME, False, root.subject, signer)
    certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    private_form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, *private_form))
    path = certificate.with_name("authority.pem")
    path.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    if not Path(NGINX).exists():
        pytest.skip("needs nginx (apt-get install nginx-light)")
    folder = tmp_path_factory.mktemp("nginx")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    authority = make_certificates(certificate, key)
    port = free_port()
    public = f"https://localhost:{port}/fust"
    fust = start_fust(
        folder / "home", starter=True, server__public_url=public, server__trusted_proxies="127.0.0.1"
    )
    text = (REPOSITORY / "deploy" / "nginx.conf").read_text()
    for old, new in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        (f"server_name {NAME};", f"server_name {NAME} localhost;"),
        ("/etc/ssl/fust/fullchain.pem", str(certificate)),
        ("/etc/ssl/fust/privkey.pem", str(key)),
        ("http://127.0.0.1:8787", fust.url),
    ):
        assert old in text, old
        text = text.replace(old, new)
    main = folder / "nginx.conf"
    temporary = "".join(
        f"{what}_temp_path {folder}/{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    main.write_text(
        f"{user} pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; daemon off;"
        f"events {{}} http {{ access_log off; {temporary} {text} }}"
    )
    subprocess.run([NGINX, "-t", "-q", "-c", str(main), "-e", str(folder / "error.log")], check=True)
    nginx = subprocess.Popen([NGINX, "-c", str(main), "-e", str(folder / "error.log")])
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    fust.url += "/fust"
    fust.environ["SSL_CERT_FILE"] = str(authority)
    yield Proxied(fust, port, authority, folder)
    nginx.terminate()
    nginx.wait(timeout=20)
    fust.stop()


def test_the_page_and_its_parts(proxied: Proxied) -> None:
    status, headers, _ = proxied.send("GET", "/fust")
    assert status == 308 and headers["location"].endswith("/fust/")
    status, headers, body = proxied.send("GET", "/fust/")
    assert status == 200 and "max-age" in headers["strict-transport-security"]
    assert '<base href="/fust/">' in body.decode()
    parts = re.findall(r'(?:src|href)="\./([^"]+\.(?:js|css))"', body.decode())
    assert len(parts) > 2
    for part in parts:
        assert proxied.send("GET", f"/fust/{part}")[0] == 200, part


def test_the_session_cookie_is_secure_and_of_the_sub_path(proxied: Proxied) -> None:
    link = proxied.fust.open_link()
    assert link.startswith(f"https://localhost:{proxied.port}/fust/?code=")
    status, headers, _ = proxied.send("GET", link.partition(str(proxied.port))[2])
    cookie = headers["set-cookie"]
    assert status in (302, 303) and "Secure" in cookie and "Path=/fust/" in cookie and "HttpOnly" in cookie
    status, _, body = proxied.send("GET", "/fust/fust/v1/session", cookie=cookie.partition(";")[0])
    assert status == 200 and b"admin" in body


def test_other_names_are_turned_away(proxied: Proxied) -> None:
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError, ssl.SSLError)):
        proxied.send("GET", "/fust/", host="evil.example.com")
    status, _, body = proxied.send(
        "GET",
        "/fust/fust/v1/status",
        authorization=f"Bearer {proxied.fust.token}",
        X_Forwarded_Host="evil.example.com",
    )
    assert status == 200 and b"evil.example.com" not in body
    assert json.loads(body)["base_url"].startswith(f"https://localhost:{proxied.port}/fust")


def test_huggingface_hub_up_and_down(proxied: Proxied, tmp_path: Path) -> None:
    out = run_client(
        proxied.fust,
        tmp_path,
        """
        import os
        from huggingface_hub import HfApi, hf_hub_download
        api = HfApi()
        data = os.urandom(20_000_000)
        api.create_repo("admin/proxied")
        api.create_branch("admin/proxied", branch="a/b")
        api.upload_file(path_or_fileobj=data, path_in_repo="big.bin", repo_id="admin/proxied", revision="a/b")
        path = hf_hub_download("admin/proxied", "big.bin", revision="a/b")
        out["same"] = open(path, "rb").read() == data
        """,
        HF_ENDPOINT=f"https://localhost:{proxied.port}/fust",
        SSL_CERT_FILE=str(proxied.certificate),
        REQUESTS_CA_BUNDLE=str(proxied.certificate),
    )
    assert out["same"] is True


def test_git_clones_and_lfs_fetches(proxied: Proxied, tmp_path: Path) -> None:
    if shutil.which("git-lfs") is None:
        pytest.skip("needs git-lfs")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "GIT_SSL_CAINFO": str(proxied.certificate),
        "GIT_TERMINAL_PROMPT": "0",
    }
    data = os.urandom(3_000_000)
    proxied.fust.request("POST", "/api/repos/create", {"name": "admin/cloned"})
    (tmp_path / "model.bin").write_bytes(data)
    pushed = proxied.fust.cli("push", str(tmp_path / "model.bin"), "admin/cloned", check=False)
    assert pushed.returncode == 0, pushed.stderr
    subprocess.run(["git", "lfs", "install"], env=environ, check=True, capture_output=True)
    url = f"https://localhost:{proxied.port}/fust/admin/cloned"
    subprocess.run(["git", "clone", "-q", url, tmp_path / "clone"], env=environ, check=True, timeout=60)
    assert (tmp_path / "clone" / "model.bin").read_bytes() == data


def test_tokens_come_one_by_one(proxied: Proxied) -> None:
    """What the engine has said is here while it stops in the middle: nothing on the way keeps it back."""
    wish = {"name": "halting", "engine": "echo", "options": {"misbehave": ["stall:1.5"]}}
    assert proxied.fust.request("POST", "/fust/v1/deployments", wish)[0] == 201
    words = "one two three four five six seven eight nine ten"
    body = {"model": "halting", "stream": True, "messages": [{"role": "user", "content": words}]}
    context = ssl.create_default_context(cafile=str(proxied.certificate))
    connection = http.client.HTTPSConnection("localhost", proxied.port, context=context, timeout=60)
    headers = {"Authorization": f"Bearer {proxied.fust.token}", "Content-Type": "application/json"}
    connection.request("POST", "/fust/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    assert answer.status == 200
    arrivals: list[float] = []
    while line := answer.readline():
        if line.startswith(b"data: {"):
            arrivals.append(time.monotonic())
    connection.close()
    pauses = [later - before for before, later in itertools.pairwise(arrivals)]
    assert len(arrivals) > 10 and max(pauses) > 1.0, "the stream came in one lump"
    assert 1 < pauses.index(max(pauses)) < len(pauses) - 1


def test_large_bodies_leave_nothing_on_the_proxys_disk(proxied: Proxied) -> None:
    import hashlib

    data = os.urandom(30_000_000)
    oid = hashlib.sha256(data).hexdigest()
    proxied.fust.request("POST", "/api/repos/create", {"name": "admin/lfs"})
    batch = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
    _, _, body = proxied.fust.request("POST", "/admin/lfs.git/info/lfs/objects/batch", batch)
    href = json.loads(body)["objects"][0]["actions"]["upload"]["href"]
    assert href.startswith(f"https://localhost:{proxied.port}/fust/")
    assert proxied.send("PUT", href.partition(str(proxied.port))[2], data, host="localhost")[0] == 200
    assert not any(path.is_file() for path in (proxied.folder / "client_body").rglob("*"))
    errors = (proxied.folder / "error.log").read_text()
    assert "buffered to a temporary file" not in errors and "[error]" not in errors, errors


def test_the_clients_address_is_the_browsers(proxied: Proxied) -> None:
    """Guessing passwords through the proxy is counted by the X-Forwarded-For that nginx wrote, not a forged one."""
    wrong = json.dumps({"name": "admin", "password": "wrong password"}).encode()
    codes = {
        proxied.send(
            "POST",
            "/fust/fust/v1/session",
            wrong,
            content_type="application/json",
            X_Forwarded_For=f"9.9.9.{i}",
        )[0]
        for i in range(30)
    }
    assert 429 in codes, codes
