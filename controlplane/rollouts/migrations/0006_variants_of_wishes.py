"""Wishes from before are for the one build that each version had."""

from django.db import migrations
from django.db.models import OuterRef, Subquery


def fill(apps, schema_editor):
    SiteModel = apps.get_model("rollouts", "SiteModel")
    Variant = apps.get_model("catalog", "Variant")
    for field in ("desired", "previous"):
        build = Variant.objects.filter(version=OuterRef(field), name="default").values("pk")[:1]
        SiteModel.objects.exclude(**{field: None}).update(**{f"{field}_variant": Subquery(build)})


class Migration(migrations.Migration):
    dependencies = [("rollouts", "0005_variants"), ("catalog", "0004_variants_of_versions")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
