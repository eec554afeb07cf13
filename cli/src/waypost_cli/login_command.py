"""`waypost login`: trades the identity that a CI system gives its jobs for a short token. Prints
the token and nothing else, to be put into WAYPOST_TOKEN; it is kept nowhere."""

import os
from typing import Annotated

import typer

from waypost_cli.connection import make_connection
from waypost_cli.errors import CliError
from waypost_cli.output import Output, OutputFormat
from waypost_cli.session import CaFileOption, GlobalOptions, UrlOption, from_environment, remember
from waypost_cli.transport import Transport

# In the place of a token, which this call needs none of.
_NO_TOKEN = "none"


def login_command(
    ctx: typer.Context,
    oidc_token_env: Annotated[
        str,
        typer.Option(
            "--oidc-token-env",
            help="Variable that holds the job's identity (an OIDC token of GitHub or GitLab).",
            metavar="NAME",
        ),
    ],
    publisher: Annotated[
        str | None,
        typer.Option("--publisher", help="Which trusted publisher, where several match."),
    ] = None,
    url: UrlOption = None,
    ca_file: CaFileOption = None,
) -> None:
    """Trade a CI job's identity for a short API token, printed on stdout."""
    given = remember(ctx, GlobalOptions(url=url, ca_file=ca_file))
    options = given.over(from_environment(os.environ))
    identity = os.environ.get(oidc_token_env, "").strip()
    if not identity:
        raise CliError(
            f"{oidc_token_env} holds no identity",
            cure="on GitHub give the job the permission `id-token: write`; on GitLab name the"
            " variable under `id_tokens`",
        )
    connection = make_connection(url=options.url, token=_NO_TOKEN, ca_file=options.ca_file)
    body = {"token": identity, **({"publisher": publisher} if publisher else {})}
    output = Output(OutputFormat.TABLE)
    if connection.sends_token_in_clear:
        output.warn(f"{connection.url} is not https: anyone on the way can read the token")
    with Transport(connection) as transport:
        # An identity is spent by its first trade: once only.
        answer = transport.request("POST", "/tokens/exchange", json=body, attempts=1)
    document = answer.body if isinstance(answer.body, dict) else {}
    token = document.get("token")
    if not isinstance(token, str) or not token:
        raise CliError("the control plane sent no token")
    output.say(f"a token until {document.get('expires_at', 'its end')}")
    output.raw(token)
