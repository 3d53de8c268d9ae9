"""The hot path as it is now: its statements are planned once a connection."""

from pathlib import Path

from django.db import migrations

HOT_PATH = Path(__file__).resolve().parent.parent / "sql" / "hot_path.sql"


class Migration(migrations.Migration):
    dependencies = [("runs", "0022_same_cycle")]

    operations = [migrations.RunSQL(HOT_PATH.read_text(), migrations.RunSQL.noop)]
