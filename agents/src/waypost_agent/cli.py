"""The command `waypost-agent`: reads the configuration, puts the parts together, prints.

Exit status: 0 done (for `once`: everything wished is served), 1 an error, 2 wrong usage,
3 `once` ended waiting for something, 4 `once` ended with a version that failed.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from waypost_agent import __version__, decide, log
from waypost_agent import protocol as p
from waypost_agent.agent import Agent, make_centre
from waypost_agent.centre import CentreProblem, CentreSilent
from waypost_agent.clock import SystemClock
from waypost_agent.config import DEFAULT_PATH, Config, check_url, load_config
from waypost_agent.durable import make_folder
from waypost_agent.errors import AgentError, AnswerError, ConfigError
from waypost_agent.identity import Identity, Membership, token_sha256
from waypost_agent.status import describe_site

DONE, ERROR, USAGE, WAITING, FAILED = 0, 1, 2, 3, 4
CONFIG_VARIABLE = "WAYPOST_AGENT_CONFIG"


@contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the folder for this process. Raises `ConfigError` when another agent has it."""
    make_folder(state_dir, mode=0o700)
    with open(state_dir / "lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
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
        answer = make_centre(config, url).post(
            "enrol",
            {
                "token": token,
                "public_key": identity.public_key(),
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
    print(f"joined {url} as site {enrolment.site}, agent {enrolment.agent}")
    return DONE


def run(config: Config) -> int:
    with only_one(config.state_dir):
        Agent(config, _membership(config)).run()
    return DONE


def once(config: Config) -> int:
    """One poll, then steps until nothing is left to do or everything waits."""
    with only_one(config.state_dir):
        agent = Agent(config, _membership(config))
        agent.loop.prepare()
        _poll_or_say(agent)
        while (rest_seconds := agent.loop.cycle()) < config.timeouts.busy_poll_seconds * 2:
            SystemClock().sleep(rest_seconds)
        try:
            agent.link.report()
        except (CentreSilent, CentreProblem, AnswerError) as error:
            print(f"the centre could not be told: {error}", file=sys.stderr)
        reports = agent.loop.reports()
    for report in reports:
        print(
            f"{report.model}: {report.phase}, serving {report.serving or 'nothing'}; "
            f"{report.reason}"
        )
    phases = {report.phase for report in reports}
    if p.FAILED in phases:
        return FAILED
    return DONE if phases <= {p.SUCCEEDED} else WAITING


def dry_run(config: Config) -> int:
    """Print the next step of each model and why; take none."""
    agent = Agent(config, _membership(config))
    try:
        with only_one(config.state_dir):
            agent.loop.prepare()
            _poll_or_say(agent)
            plans = agent.loop.plan_wished()
    except ConfigError as error:
        if "another agent is running" not in str(error):
            raise
        # Asking the centre would end the running agent's session; its last wishes are on disk.
        print("an agent is running here; planning from the wishes it holds", file=sys.stderr)
        agent.loop.prepare()
        plans = agent.loop.plan_wished()
    for plan in plans:
        print(f"{plan.entry.model}: {_describe(plan.action)}")
        print(f"  because {plan.action.reason}")
    if not plans:
        print("nothing is wished of this site")
    return DONE


def _poll_or_say(agent: Agent) -> None:
    try:
        agent.link.poll()
    except (CentreSilent, CentreProblem, AnswerError) as error:
        print(f"the centre could not be asked: {error}", file=sys.stderr)


def _describe(action: decide.Action) -> str:
    target = getattr(action, "target", None)
    name = type(action).__name__
    if isinstance(action, decide.Settled):
        return f"nothing to do ({'as wished' if action.succeeded else 'failed'})"
    return name if target is None else f"{name} version {target.version}"


def status(config: Config, *, as_json: bool) -> int:
    """What this site serves, as its disk and its Triton say it now."""
    document = describe_site(config)
    if as_json:
        print(json.dumps(document, indent=2))
        return DONE
    triton = document["triton"]
    print(
        f"site {document['site'] or 'not joined'}, "
        f"Triton {triton['version'] if triton['live'] else 'not reachable'}"
    )
    for model in document["models"]:
        serving = model["serving"] or "nothing"
        print(
            f"{model['model']}: serving {serving}, committed {model['committed'] or 'nothing'}, "
            f"on disk {', '.join(model['installed']) or 'nothing'}"
        )
        if model["failed"]:
            print(f"  version {model['failed']['version']} failed: {model['failed']['reason']}")
    return DONE


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
    common.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING"])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("join", parents=[common], help="bind this agent to a site")
    command.add_argument("url", help="the control plane, such as https://waypost.example")
    command.add_argument("--token", required=True, help="the site's one-time enrolment token")
    commands.add_parser("run", parents=[common], help="serve what is wished until stopped")
    command = commands.add_parser("once", parents=[common], help="poll and reconcile once")
    command.add_argument("--dry-run", action="store_true", help="print the steps, take none")
    command = commands.add_parser("status", parents=[common], help="what this site serves")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = _parser().parse_args(arguments)
    log.set_up(given.log_level if given.command == "run" else "WARNING")
    try:
        config = load_config(given.config)
        if given.command == "join":
            return join(config, given.url, given.token)
        if given.command == "run":
            return run(config)
        if given.command == "once":
            return dry_run(config) if given.dry_run else once(config)
        return status(config, as_json=given.json)
    except (ConfigError, AgentError, CentreSilent, CentreProblem, AnswerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ERROR


if __name__ == "__main__":
    sys.exit(main())
