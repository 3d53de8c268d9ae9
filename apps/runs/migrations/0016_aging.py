"""The hot path as it is now: a node that is queued anew stands at its priority."""

from pathlib import Path

from django.db import migrations

HOT_PATH = Path(__file__).resolve().parent.parent / "sql" / "hot_path.sql"


class Migration(migrations.Migration):
    dependencies = [("runs", "0015_direct_hop")]

    operations = [migrations.RunSQL(HOT_PATH.read_text(), migrations.RunSQL.noop)]
