"""`waypost sign`, and what `waypost push` does with signatures: options, files and words."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from waypost_cli.api import Api, Document
from waypost_cli.bundle import Bundle, read_bundle
from waypost_cli.errors import CliError
from waypost_cli.output import Output, OutputFormat, show_one
from waypost_cli.session import GlobalOptions, OutputOption, remember

if TYPE_CHECKING:
    from waypost_cli.signing import SigningKey

MAX_SIGNATURE_BYTES = 8 << 20
SignatureOf = Callable[[Bundle], bytes]
SignatureOption = Annotated[
    Path | None,
    typer.Option(
        "--signature",
        help="Attach this signature: a bundle of `waypost sign` or `model_signing sign key`.",
        metavar="FILE",
    ),
]
SignKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--sign-key",
        help="Sign with this private key (PEM) and attach the signature.",
        metavar="KEY",
    ),
]


def sign_command(
    ctx: typer.Context,
    directory: Annotated[
        Path, typer.Argument(help="The folder that is or will be pushed.", metavar="DIR")
    ],
    key: Annotated[
        Path,
        typer.Option(
            "--key",
            help="Private key in PEM, on P-256, P-384 or P-521. Its password, if it has one, is"
            " read from WAYPOST_SIGN_KEY_PASSWORD.",
            metavar="KEY",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Where the signature goes.", metavar="FILE")
    ] = Path("model.sig"),
    output: OutputOption = None,
) -> None:
    """Sign the files of a version (OpenSSF Model Signing); needs no control plane."""
    options = remember(ctx, GlobalOptions(output=output))
    shown = Output(options.output or OutputFormat.TABLE)
    if out.resolve().is_relative_to(directory.resolve()):
        raise CliError(
            f"{out} lies in {directory} and would be a file of the version itself",
            cure=f"give --out another place, such as {directory.resolve().parent / 'model.sig'}",
        )
    signer = _read_key(key)
    shown.say(f"reading {directory}")
    bundle = read_bundle(directory)
    try:
        out.write_bytes(_sign(bundle, directory, signer))
    except OSError as error:
        raise CliError(f"{out} cannot be written: {error.strerror}") from error
    count = len(bundle.files)
    shown.say(f"signed {count} files; attach it with waypost push --signature {out}")
    document = {"signature": str(out), "files": count, "key": signer.fingerprint}
    show_one(shown, document, {"signature": "signature", "files": "files", "key": "key (SHA-256)"})


def signature_of(
    directory: Path, signature: Path | None, sign_key: Path | None
) -> SignatureOf | None:
    """How a push gets its signature, with all that can fail before the first byte is sent; None
    when it is to have none."""
    if signature is not None and sign_key is not None:
        raise CliError("--signature and --sign-key are both given", cure="give one of them")
    if sign_key is not None:
        signer = _read_key(sign_key)
        return lambda bundle: _sign(bundle, directory, signer)
    if signature is None:
        return None
    try:
        raw = signature.read_bytes()
    except OSError as error:
        raise CliError(
            f"the signature {signature} cannot be read: {error.strerror}",
            cure="make it with `waypost sign`",
        ) from error
    if len(raw) > MAX_SIGNATURE_BYTES:
        raise CliError(f"{signature} has {len(raw)} bytes; that is no signature")
    return lambda bundle: raw


def attach(api: Api, output: Output, *, model: str, version: str, signature: bytes) -> list[str]:
    """Hands the signature in; the names of the keys that signed the version then."""
    document = api.put_signature(model=model, version=version, signature=signature)
    standing = document.get("standing")
    names = standing.get("signed_by") if isinstance(standing, dict) else None
    signed_by = [str(name) for name in names] if isinstance(names, list) else []
    output.say(f"{model} version {version} is signed by {', '.join(signed_by)}")
    return signed_by


def shown_key(document: Document) -> dict[str, object]:
    """A signing key for a table: the state in a word."""
    return {**document, "state": "revoked" if document.get("revoked_at") else "live"}


def _read_key(path: Path) -> "SigningKey":
    try:
        from waypost_cli.signing import read_key
    except ImportError as error:
        raise CliError(
            "signing needs the package cryptography, which is not installed",
            cure="pip install 'waypost-cli[sign]'",
        ) from error
    return read_key(path)


def _sign(bundle: Bundle, directory: Path, key: "SigningKey") -> bytes:
    from waypost_cli.signing import sign_files

    files = {file.path: file.sha256 for file in bundle.files}
    return sign_files(files, subject=directory.resolve().name, key=key)
