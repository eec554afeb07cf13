"""The command `waypost`: puts the commands together and turns every ending into an exit code."""

import io
import sys
from typing import Annotated

import typer

from waypost_cli.channel_commands import channel_app
from waypost_cli.errors import CliError, ExitCode, Finished
from waypost_cli.fit_command import fit_command
from waypost_cli.freeze_commands import budget_command, freeze_app
from waypost_cli.golden_commands import golden_app
from waypost_cli.keys_command import keys_app
from waypost_cli.login_command import login_command
from waypost_cli.output import show_error
from waypost_cli.push_command import push_command
from waypost_cli.registry_commands import (
    import_command,
    imports_command,
    link_command,
    links_command,
    unlink_command,
)
from waypost_cli.rollout_commands import rollout_app
from waypost_cli.rollout_verbs import gate_command
from waypost_cli.session import (
    CaFileOption,
    GlobalOptions,
    OutputOption,
    TokenOption,
    UrlOption,
    remember,
)
from waypost_cli.sign_command import sign_command
from waypost_cli.site_commands import sites_app
from waypost_cli.strategy_commands import strategy_app
from waypost_cli.token_commands import publishers_app, tokens_app
from waypost_cli.transport import own_version
from waypost_cli.version_commands import (
    drift_app,
    pin_command,
    quarantine_command,
    release_command,
    unpin_command,
)
from waypost_cli.version_life import (
    approve_command,
    retire_command,
    unretire_command,
    version_app,
)

_INTERRUPTED = 130  # 128 + SIGINT, as a shell has it

app = typer.Typer(
    no_args_is_help=True,
    help="Push model versions and run rollouts, from a CI job or a terminal.",
    epilog="Exit codes: 0 ok, 1 error, 2 rollout failed, rolled back or superseded, 3 timed out,"
    " 4 waits for a person (a pause by anybody, or an approval).",
    pretty_exceptions_enable=False,  # a traceback with local variables would show the token
)
app.command("push")(push_command)
app.command("login")(login_command)
app.add_typer(golden_app, name="golden")
app.command("sign")(sign_command)
app.add_typer(keys_app, name="keys")
app.command("link")(link_command)
app.command("links")(links_command)
app.command("unlink")(unlink_command)
app.command("import")(import_command)
app.command("imports")(imports_command)
app.add_typer(rollout_app, name="rollout")
app.command("gate")(gate_command)
app.add_typer(strategy_app, name="strategy")
app.add_typer(freeze_app, name="freeze")
app.command("fit")(fit_command)
app.command("budget")(budget_command)
app.command("approve")(approve_command)
app.command("retire")(retire_command)
app.command("unretire")(unretire_command)
app.add_typer(version_app, name="version")
app.add_typer(channel_app, name="channel")
app.command("quarantine")(quarantine_command)
app.command("release")(release_command)
app.command("pin")(pin_command)
app.command("unpin")(unpin_command)
app.add_typer(drift_app, name="drift")
app.add_typer(sites_app, name="sites")
app.add_typer(tokens_app, name="tokens")
app.add_typer(publishers_app, name="publishers")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"waypost {own_version()}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    url: UrlOption = None,
    token: TokenOption = None,
    ca_file: CaFileOption = None,
    output: OutputOption = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version of this."
        ),
    ] = False,
) -> None:
    remember(ctx, GlobalOptions(url=url, token=token, ca_file=ca_file, output=output))


def run(arguments: list[str] | None = None) -> int:
    """Runs one command line and returns its exit status."""
    try:
        app(args=arguments, prog_name="waypost")
    except Finished as finished:
        return finished.exit_code
    except CliError as error:
        show_error(error)
        return ExitCode.ERROR
    except SystemExit as ended:
        return _status(ended.code)
    return ExitCode.OK


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding lacks is shown escaped, never a crash.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run())


def _status(code: object) -> int:
    if code is None:
        return ExitCode.OK
    if code == _INTERRUPTED:
        return _INTERRUPTED
    # Outcomes of rollouts come as `Finished`; any other status is a mistake in the call.
    return ExitCode.OK if code == 0 else ExitCode.ERROR
