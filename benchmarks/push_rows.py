"""What a push needs of the centre, made by the product's own services.

python -m benchmarks.push_rows token    a token that may push; prints it
python -m benchmarks.push_rows wish     a site wishes for the newest version; prints {site: token}
"""

import json
import sys

import django

from benchmarks import fleet_rows
from benchmarks.sites import MODEL


def token() -> str:
    from django.utils import timezone

    from controlplane.accounts.models import User
    from controlplane.accounts.services import create_api_token

    user = User.objects.create(username="bench")
    scopes, now = ("push",), timezone.now()
    return create_api_token(user=user, name="bench", scopes=scopes, actor="bench", now=now)[1]


def wish() -> str:
    """Void unless the newest version was pushed to its end."""
    from django.db import transaction
    from django.utils import timezone

    from controlplane.catalog.models import Version, VersionState
    from controlplane.fleet.services import create_enrolment_token, create_site
    from controlplane.rollouts.wishes import change_wishes

    now = timezone.now()
    version = Version.objects.filter(model__name=MODEL).latest("number")
    if version.state != VersionState.VALIDATED:
        sys.exit(f"{version} is {version.state}")
    fleet_rows.let_in(version, now)
    fields = {"name": "site-0", "tier": "edge", "region": "bench"}
    site = create_site(fields=fields, actor="bench", now=now)
    secret = create_enrolment_token(site=site, actor="bench", now=now)[1]
    with transaction.atomic():
        change_wishes(model_id=version.model_id, wishes={site.pk: version}, keep_previous=False)
    return json.dumps({site.name: secret})


if __name__ == "__main__":
    django.setup()
    sys.stdout.write({"token": token, "wish": wish}[sys.argv[1]]())
