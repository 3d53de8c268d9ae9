"""The hot path as it is now: one further look, no more; nothing taken where a run is cut off."""

from pathlib import Path

from django.db import migrations

HOT_PATH = Path(__file__).resolve().parent.parent / "sql" / "hot_path.sql"


class Migration(migrations.Migration):
    dependencies = [("runs", "0006_reopened")]

    operations = [migrations.RunSQL(HOT_PATH.read_text(), migrations.RunSQL.noop)]
