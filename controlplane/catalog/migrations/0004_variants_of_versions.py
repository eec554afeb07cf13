"""Versions from before: each is one build, and what could be rolled out may be on."""

from django.db import migrations


def fill(apps, schema_editor):
    Version, Variant = apps.get_model("catalog", "Version"), apps.get_model("catalog", "Variant")
    Variant.objects.bulk_create(
        [
            Variant(
                version=version,
                name="default",
                manifest=version.manifest,
                manifest_digest=version.manifest_digest,
                size_bytes=version.size_bytes,
            )
            for version in Version.objects.filter(variants=None).iterator()
        ],
        batch_size=500,
    )
    Version.objects.filter(state="registered").update(
        state="approved", state_reason="was registered before approvals were asked for"
    )
    Version.objects.filter(state="quarantined").update(state_before="approved")


class Migration(migrations.Migration):
    dependencies = [("catalog", "0003_catalogue")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
