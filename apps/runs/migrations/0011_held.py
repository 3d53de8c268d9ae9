"""Runs that a tag's hold holds, and the hot path that reads this and the queues' holds."""

from pathlib import Path

from django.db import migrations, models

HOT_PATH = Path(__file__).resolve().parent.parent / "sql" / "hot_path.sql"


class Migration(migrations.Migration):
    dependencies = [("runs", "0010_run_lists"), ("workspaces", "0003_hold")]

    operations = [
        migrations.AddField(
            model_name="run", name="held", field=models.BooleanField(default=False)
        ),
        migrations.RunSQL(HOT_PATH.read_text(), migrations.RunSQL.noop),
    ]
