"""A run names who is told of its failures, and a failed node writes that down as it ends."""

from pathlib import Path

import django.contrib.postgres.fields
from django.db import migrations, models

HOT_PATH = Path(__file__).resolve().parent.parent / "sql" / "hot_path.sql"


class Migration(migrations.Migration):
    dependencies = [
        ("runs", "0025_schedule_points"),
        ("workflows", "0008_schedule_points"),
    ]

    operations = [
        migrations.AddField(
            model_name="run",
            name="on_failure",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=64), default=list, size=None
            ),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(
                condition=models.Q(("state", "succeeded"), ("workflow__isnull", False)),
                fields=["workflow", "ended_at"],
                name="run_succeeded",
            ),
        ),
        migrations.RunSQL(HOT_PATH.read_text(), migrations.RunSQL.noop),
    ]
