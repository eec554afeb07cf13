"""`manage.py create_person`: an account for a person; the password is printed once."""

import argparse
import secrets
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from controlplane.accounts.models import User
from controlplane.audit.services import record_event


class Command(BaseCommand):
    help = "Make a person's account and print its password, alone, on stdout."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name")
        parser.add_argument(
            "--staff",
            action="store_true",
            help="may do everything in the console; without it, what an administrator grants",
        )

    @transaction.atomic
    def handle(self, *_: Any, **options: Any) -> None:
        password = secrets.token_urlsafe(12)
        person = User(username=options["name"], is_staff=options["staff"])
        person.set_password(password)
        try:
            person.full_clean()
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        person.save()
        record_event(
            now=timezone.now(),
            actor="shell",
            action="person.created",
            object_type="person",
            object_id=person.username,
            data={"staff": person.is_staff},
        )
        self.stdout.write(password)
