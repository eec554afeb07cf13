"""The command `waypost-agent`: reads the configuration, puts the parts together, prints.

Exit status: 0 done (for `once`: everything wished is served; for `doctor`: no check failed),
1 an error, a refused order or a failed check, 2 wrong usage, 3 `once` or `rollback` ended waiting
for something, 4 `once` ended with a version that failed, `rollback` with one that does not serve.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from waypost_agent import __version__, log
from waypost_agent import protocol as p
from waypost_agent.agent import Agent, make_centre
from waypost_agent.centre import CentreProblem, CentreSilent
from waypost_agent.clock import SystemClock
from waypost_agent.config import DEFAULT_PATH, LOG_LEVELS, Config, check_url, load_config
from waypost_agent.durable import make_folder
from waypost_agent.errors import NO_SERVER, AgentError, AnswerError, ConfigError
from waypost_agent.identity import Identity, Membership, token_sha256
from waypost_agent.meter import Meter
from waypost_agent.plan_view import site_document, site_lines
from waypost_agent.rollback import Refused
from waypost_agent.rollback_command import Outcome, await_agent, carry_out, give_order
from waypost_agent.servers import unclaimed
from waypost_agent.status import describe_site, status_lines

DONE, ERROR, USAGE, WAITING, FAILED = 0, 1, 2, 3, 4
CONFIG_VARIABLE = "WAYPOST_AGENT_CONFIG"


class AnotherAgentRuns(ConfigError):
    """The agent's folder is held by another process."""


@contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the folder for this process. Raises `AnotherAgentRuns` when another has it."""
    make_folder(state_dir, mode=0o700)
    with open(state_dir / "lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AnotherAgentRuns(
                f"state_dir: another agent is running in {state_dir}; stop it first"
            ) from None
        yield


def join(config: Config, url: str, token: str) -> int:
    """Bind this agent's key to the token's site, once."""
    check_url(url, allow_plain_http=config.allow_plain_http)
    with only_one(config.state_dir):
        identity = Identity(config.state_dir)
        known = identity.membership()
        same = known is not None and known.centre_url == url
        if known is not None and same and known.token_sha256 == token_sha256(token):
            print(f"already joined {url} as site {known.site}, agent {known.agent}")
            return DONE
        answer = make_centre(config, url, Meter(SystemClock())).post(
            "enrol",
            {
                "token": token,
                # Whoever has a copy of the key of before must not have the new agent's too.
                "public_key": identity.next_public_key() if known else identity.public_key(),
                "agent_version": __version__,
                "hostname": platform.node(),
            },
        )
        enrolment = p.parse_enrolment(answer.body)
        identity.save_membership(
            Membership(
                centre_url=url,
                agent=enrolment.agent,
                site=enrolment.site,
                poll_seconds=enrolment.poll_seconds,
                token_sha256=token_sha256(token),
            )
        )
        if known:
            identity.adopt_next_key()
    print(f"joined {url} as site {enrolment.site}, agent {enrolment.agent}")
    print(f"the agent's key lies in {config.state_dir} and never leaves this machine")
    print("next: waypost-agent doctor, then start the service (waypost-agent run)")
    return DONE


def run(config: Config, config_path: Path) -> int:
    def read_level_again(*_: object) -> None:
        # Not in the handler itself: what it interrupts may be in the midst of logging.
        threading.Thread(target=log.read_level_again, args=(config_path,), daemon=True).start()

    with only_one(config.state_dir):
        agent = Agent(config, _membership(config))
        signal.signal(signal.SIGHUP, read_level_again)
        agent.run()
    return DONE


def once(config: Config, *, as_json: bool) -> int:
    """One poll, then steps until nothing is left to do or everything waits."""
    with only_one(config.state_dir):
        agent = Agent(config, _membership(config))
        agent.prepare()
        _poll_or_say(agent)
        while (rest_seconds := agent.cycle()) < config.timeouts.busy_poll_seconds * 2:
            SystemClock().sleep(rest_seconds)
        try:
            agent.link.report()
        except (CentreSilent, CentreProblem, AnswerError) as error:
            print(f"the centre could not be told: {error}", file=sys.stderr)
        reports = agent.reports()
    if as_json:
        _print_json({"models": [report.document() for report in reports]})
    else:
        for report in reports:
            serving = report.serving or "nothing"
            print(f"{report.model}: {report.phase}, serving {serving}; {report.reason}")
    phases = {report.phase for report in reports}
    if p.FAILED in phases:
        return FAILED
    return DONE if phases <= {p.SUCCEEDED} else WAITING


def dry_run(config: Config, *, as_json: bool) -> int:
    """Print the next step of each model and why; take none."""
    agent = Agent(config, _membership(config))
    try:
        with only_one(config.state_dir):
            agent.prepare()
            _poll_or_say(agent)
            plans = agent.plan_wished()
    except AnotherAgentRuns:
        # Asking the centre would end the running agent's session; its last wishes are on disk.
        print("an agent is running here; planning from the wishes it holds", file=sys.stderr)
        agent.prepare()
        plans = agent.plan_wished()
    nobodys = [report for report in agent.reports() if report.reason_code == NO_SERVER]
    if as_json:
        _print_json(site_document(plans, nobodys))
    else:
        print("\n".join(site_lines(plans, nobodys)))
    return DONE


def _poll_or_say(agent: Agent) -> None:
    try:
        agent.link.poll()
    except (CentreSilent, CentreProblem, AnswerError) as error:
        print(f"the centre could not be asked: {error}", file=sys.stderr)


def rollback(config: Config, model: str, reason: str, *, wait_seconds: float) -> int:
    """Put the model back to the verified version before; needs no centre."""
    server, clock = Agent(config, _membership(config)).server_of(model), SystemClock()
    if server is None:
        print(f"error: {unclaimed(model, config.shares)}", file=sys.stderr)
        return ERROR
    server.loop.prepare()
    try:
        order = give_order(server, model, reason)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return ERROR
    print(f"{model}: back from version {order.target.version} to {order.back_to.version}")
    try:
        with only_one(config.state_dir):
            outcome = carry_out(
                server, order, clock, busy_seconds=config.timeouts.busy_poll_seconds * 2
            )
    except AnotherAgentRuns:
        outcome = await_agent(server, order, clock, seconds=wait_seconds)
    return _tell(model, outcome)


def _tell(model: str, outcome: Outcome) -> int:
    if outcome.done:
        print(f"{model}: done; {outcome.sentence}")
        return DONE
    if outcome.waits:
        print(f"{model}: not yet, and nothing more to do by hand; {outcome.sentence}")
        return WAITING
    print(f"error: {model}: {outcome.sentence}", file=sys.stderr)
    return FAILED


def doctor(config_path: Path, *, as_json: bool) -> int:
    """Check everything this site needs; each finding with its cure."""
    # It brings gRPC along, which an agent at peace has no use for.
    from waypost_agent.doctor import FAIL, check_all, check_document, check_lines
    from waypost_agent.doctor.gather import gather

    checks = check_all(*gather(config_path))
    if as_json:
        _print_json(check_document(checks))
    else:
        print("\n".join(check_lines(checks)))
    return ERROR if any(check.verdict == FAIL for check in checks) else DONE


def status(config: Config, *, as_json: bool) -> int:
    """What this site serves, as its disk and its Triton say it now."""
    document = describe_site(config)
    if as_json:
        _print_json(document)
    else:
        print("\n".join(status_lines(document)))
    return DONE


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def _membership(config: Config) -> Membership:
    membership = Identity(config.state_dir).membership()
    if membership is None:
        raise ConfigError(
            f"state_dir: no agent has joined from {config.state_dir}; "
            "run waypost-agent join URL --token TOKEN first"
        )
    return membership


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="waypost-agent", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--version", action="version", version=f"waypost-agent {__version__}")
    default = Path(os.environ.get(CONFIG_VARIABLE, DEFAULT_PATH))
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        type=Path,
        default=default,
        metavar="FILE",
        help=f"the agent's configuration (default {default}; {CONFIG_VARIABLE} sets another)",
    )
    common.add_argument(
        "--log-level", choices=LOG_LEVELS, help="instead of the log_level of the configuration"
    )
    printing = argparse.ArgumentParser(add_help=False)
    printing.add_argument(
        "--output", default="text", choices=["text", "json"], help="how to print (default text)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("join", parents=[common], help="bind this agent to a site")
    command.add_argument("url", help="the control plane, such as https://waypost.example")
    command.add_argument("--token", required=True, help="the site's one-time enrolment token")
    commands.add_parser("run", parents=[common], help="serve what is wished until stopped")
    both = [common, printing]
    command = commands.add_parser("once", parents=both, help="poll and reconcile once")
    command.add_argument("--dry-run", action="store_true", help="print the steps, take none")
    command = commands.add_parser("status", parents=both, help="what this site serves")
    command.add_argument(
        "--json", action="store_const", const="json", dest="output", help="--output json"
    )
    commands.add_parser("doctor", parents=both, help="check what this site needs, with each cure")
    command = commands.add_parser(
        "rollback",
        parents=[common],
        help="serve the verified version before, until the centre wishes anew",
    )
    command.add_argument("model")
    command.add_argument("--reason", default="", help="one sentence, for who asks later why")
    command.add_argument(
        "--wait",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="how long to watch the agent that runs here (default 120)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = _parser().parse_args(arguments)
    log.set_up("WARNING")
    try:
        if given.command == "doctor":  # it also checks the configuration
            return doctor(given.config, as_json=given.output == "json")
        return _command(given, load_config(given.config))
    except (ConfigError, AgentError, CentreSilent, CentreProblem, AnswerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ERROR


def _command(given: argparse.Namespace, config: Config) -> int:
    match given.command:
        case "join":
            return join(config, given.url, given.token)
        case "run":
            log.set_up(given.log_level or config.log_level)
            return run(config, given.config)
        case "once" if given.dry_run:
            return dry_run(config, as_json=given.output == "json")
        case "once":
            return once(config, as_json=given.output == "json")
        case "rollback":
            return rollback(config, given.model, given.reason, wait_seconds=given.wait)
        case _:
            return status(config, as_json=given.output == "json")


if __name__ == "__main__":
    sys.exit(main())
