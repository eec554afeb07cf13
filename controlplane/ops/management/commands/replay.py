"""`manage.py replay ROLLOUT`: tells a rollout again from its events, and says where rows differ."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from controlplane.domain.errors import NotFound
from controlplane.rollouts.history import replayed
from controlplane.rollouts.queries import find_rollout


class Command(BaseCommand):
    help = "Tells a rollout again from its events; exits with 1 where its rows say something else."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("rollout", type=int, help="the number of the rollout")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            rollout = find_rollout(options["rollout"])
        except NotFound as error:
            raise CommandError(error.detail) from error
        told, differences = replayed(rollout)
        self.stdout.write(f"rollout {rollout.pk} of {rollout.version}: {told.state}")
        for stage in rollout.stages.all():
            self.stdout.write(f"  stage {stage.name}: {told.stages.get(stage.index, 'not told')}")
        for (site, kind, attempt), state in sorted(told.deployments.items()):
            self.stdout.write(f"  {site}: {kind}, attempt {attempt}: {state}")
        if differences:
            raise CommandError("the rows say something else:\n  " + "\n  ".join(differences))
        self.stdout.write("the rows say the same")
