"""An identity provider of the tests' own: real keys, real signatures, real HTTP on loopback."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "waypost"
CLAIMS = {
    "repository": "acme/vad",
    "ref": "refs/heads/main",
    "sub": "repo:acme/vad:ref:refs/heads/main",
    "run_id": "4711",
}


class Issuer:
    """Signs identities and publishes its keys. `documents` may be changed by a test."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[str] = []
        self.keys: dict[str, Any] = {}
        self.says_issuer = url
        self.redirect_keys_to: str | None = None
        self.add_key("first")

    def add_key(self, kid: str, *, kind: str = "RS256") -> None:
        if kind == "ES256":
            self.keys[kid] = ec.generate_private_key(ec.SECP256R1())
        else:
            self.keys[kid] = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def public_pem(self, kid: str) -> bytes:
        return bytes(
            self.keys[kid]
            .public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def identity(self, *, now: datetime, kid: str = "first", **changes: Any) -> str:
        """A signed token; `changes` of claims, None leaves one out."""
        claims: dict[str, Any] = {
            **CLAIMS,
            "iss": self.url,
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + timedelta(minutes=5),
            "jti": f"{kid}-{len(self.asked)}-{changes}",
            **changes,
        }
        kept = {key: value for key, value in claims.items() if value is not None}
        key = self.keys[kid]
        kind = "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
        raw = json.dumps(kept, default=datetime.timestamp).encode()
        # Below the library's own look at claims, so that wrong ones can be signed too.
        return jwt.PyJWS().encode(raw, key, algorithm=kind, headers={"kid": kid})

    def document(self, path: str) -> Any:
        self.asked.append(path)
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.says_issuer, "jwks_uri": f"{self.url}/keys"}
        if path == "/keys":
            return {"keys": [self._jwk(kid) for kid in self.keys]}
        return None

    def _jwk(self, kid: str) -> dict[str, Any]:
        public = self.keys[kid].public_key()
        if isinstance(public, rsa.RSAPublicKey):
            said = {**RSAAlgorithm.to_jwk(public, as_dict=True), "alg": "RS256"}
        else:
            said = {**ECAlgorithm.to_jwk(public, as_dict=True), "alg": "ES256"}
        return {**said, "kid": kid, "use": "sig"}


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    held: list[Issuer] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer = held[0]
            if issuer.redirect_keys_to and self.path == "/keys":
                self.send_response(302)
                self.send_header("Location", issuer.redirect_keys_to)
                self.end_headers()
                return
            document = issuer.document(self.path)
            raw = json.dumps(document).encode()
            self.send_response(200 if document is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    held.append(Issuer(f"http://127.0.0.1:{server.server_address[1]}"))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield held[0]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
