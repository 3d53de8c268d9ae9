"""The hot path as it is now: a claim says how its attempt is retried."""

from pathlib import Path

from django.db import migrations

HOT_PATH = Path(__file__).resolve().parent.parent / "sql" / "hot_path.sql"


class Migration(migrations.Migration):
    dependencies = [("runs", "0013_policies")]

    operations = [migrations.RunSQL(HOT_PATH.read_text(), migrations.RunSQL.noop)]
