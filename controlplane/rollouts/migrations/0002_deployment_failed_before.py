"""Which attempts follow one that failed; told of those that are not over yet too."""

from django.db import migrations, models


def mark_retries(apps, schema_editor):
    deployments = apps.get_model("rollouts", "Deployment").objects
    failed = deployments.filter(
        rollout=models.OuterRef("rollout"),
        site=models.OuterRef("site"),
        kind="forward",
        state__in=["failed", "timed_out"],
        attempt__lt=models.OuterRef("attempt"),
    )
    deployments.filter(models.Exists(failed), kind="forward").update(failed_before=True)


class Migration(migrations.Migration):

    dependencies = [
        ('rollouts', '0001_initial'),
    ]

    operations = [
        migrations.AddField(
            model_name='deployment',
            name='failed_before',
            field=models.BooleanField(default=False),
        ),
        migrations.RunPython(mark_retries, migrations.RunPython.noop),
    ]
