"""Uploads that are not whole belong to a model. Those of before name none: they are forgotten, and
whoever pushes them begins them anew; what their parts hold in the bucket goes after a day."""

import django.db.models.deletion
from django.db import migrations, models


def forget(apps, schema_editor):
    apps.get_model("catalog", "MultipartUpload").objects.all().delete()


class Migration(migrations.Migration):
    dependencies = [("catalog", "0005_sent_bytes")]

    operations = [
        migrations.RunPython(forget, migrations.RunPython.noop),
        migrations.AddField(
            model_name="multipartupload",
            name="model",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="+", to="catalog.model"
            ),
            preserve_default=False,
        ),
        migrations.AlterField(
            model_name="multipartupload",
            name="sha256",
            field=models.CharField(max_length=64),
        ),
        migrations.AddConstraint(
            model_name="multipartupload",
            constraint=models.UniqueConstraint(
                fields=("model", "sha256"), name="one_upload_per_file_of_model"
            ),
        ),
        migrations.RunPython(migrations.RunPython.noop, forget),
    ]
