"""Where a push comes from, as the CI system's own variables say; what is given on the command line
wins. Knows GitHub's and GitLab's predefined variables."""

from collections.abc import Mapping


def lineage_of(given: Mapping[str, str | None], environment: Mapping[str, str]) -> dict[str, str]:
    """git_repository, git_commit, ci_run, and whatever else was given; nothing that is unknown."""
    found = {**_from_github(environment), **_from_gitlab(environment)}
    found.update({key: value for key, value in given.items() if value})
    return {key: value for key, value in found.items() if value}


def _from_github(environment: Mapping[str, str]) -> dict[str, str]:
    server, name = environment.get("GITHUB_SERVER_URL"), environment.get("GITHUB_REPOSITORY")
    if environment.get("GITHUB_ACTIONS") != "true" or not server or not name:
        return {}
    run = environment.get("GITHUB_RUN_ID")
    return {
        "git_repository": f"{server}/{name}",
        "git_commit": environment.get("GITHUB_SHA", ""),
        "ci_run": f"{server}/{name}/actions/runs/{run}" if run else "",
    }


def _from_gitlab(environment: Mapping[str, str]) -> dict[str, str]:
    if environment.get("GITLAB_CI") != "true":
        return {}
    return {
        "git_repository": environment.get("CI_PROJECT_URL", ""),
        "git_commit": environment.get("CI_COMMIT_SHA", ""),
        "ci_run": environment.get("CI_JOB_URL", ""),
    }
