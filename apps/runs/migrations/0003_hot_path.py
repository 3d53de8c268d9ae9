"""The hot path's functions, and storage settings for the rows that it writes.

When sql/hot_path.sql changes, a new migration installs it again: it replaces what is there.
"""

from pathlib import Path

from django.db import migrations

HOT_PATH = Path(__file__).resolve().parent.parent / "sql" / "hot_path.sql"

# Room on each page for the next version of a row (HOT), and a vacuum that keeps up.
STORAGE = """
ALTER TABLE workspaces_resourcequeue SET (fillfactor = 20);
ALTER TABLE runs_run SET (fillfactor = 70);
ALTER TABLE runs_noderun SET (
    fillfactor = 70, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE runs_attempt SET (fillfactor = 80);
"""


class Migration(migrations.Migration):
    dependencies = [("runs", "0002_initial"), ("workspaces", "0001_initial")]

    operations = [
        migrations.RunSQL(STORAGE, migrations.RunSQL.noop),
        migrations.RunSQL(HOT_PATH.read_text(), migrations.RunSQL.noop),
    ]
