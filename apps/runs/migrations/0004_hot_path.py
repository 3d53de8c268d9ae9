"""The hot path as it is now: rows handed on instead of read again, and no sequential scans."""

from pathlib import Path

from django.db import migrations

HOT_PATH = Path(__file__).resolve().parent.parent / "sql" / "hot_path.sql"


class Migration(migrations.Migration):
    dependencies = [("runs", "0003_hot_path")]

    operations = [migrations.RunSQL(HOT_PATH.read_text(), migrations.RunSQL.noop)]
