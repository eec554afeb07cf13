"""`manage.py create_token`: an API token for a CI job; the secret is printed once."""

import argparse
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from controlplane.accounts.models import Scope, User
from controlplane.accounts.services import create_api_token
from controlplane.domain.errors import InvalidInput


class Command(BaseCommand):
    help = "Make an API token and print it, alone, on stdout."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", help="what the token is for, as shown in events")
        parser.add_argument("--user", default="admin")
        parser.add_argument("--scope", action="append", choices=Scope.values, required=True)
        parser.add_argument(
            "--model",
            action="append",
            default=[],
            metavar="MODEL",
            help="its writes may concern this model alone; repeatable",
        )
        parser.add_argument("--days", type=float, default=90)

    def handle(self, *_: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["user"]).first()
        if user is None:
            raise CommandError(f"There is no user {options['user']!r}.")
        try:
            secret = create_api_token(
                user=user,
                name=options["name"],
                scopes=options["scope"],
                model_names=options["model"],
                lifetime=timedelta(days=options["days"]),
                actor="shell",
                now=timezone.now(),
            )[1]
        except InvalidInput as error:
            faults = "; ".join(f"{fault.field} {fault.message}" for fault in error.errors)
            raise CommandError(f"{error.detail} {faults}") from error
        self.stdout.write(secret)
