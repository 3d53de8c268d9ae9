"""A run waits for another of the same cycle; the hot path lets it go on."""

from pathlib import Path

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

HOT_PATH = Path(__file__).resolve().parent.parent / "sql" / "hot_path.sql"


class Migration(migrations.Migration):

    dependencies = [
        ('nodes', '0003_retention'),
        ('runs', '0021_true_ends'),
        ('workflows', '0004_overlap'),
        ('workspaces', '0004_secret'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='run',
            name='run_waits_in_a_lane',
        ),
        migrations.RemoveIndex(
            model_name='run',
            name='run_of_workflow_not_over',
        ),
        migrations.AddField(
            model_name='run',
            name='waits_for',
            field=models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.RESTRICT, related_name='followers', to='runs.run'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(condition=models.Q(('state__in', ['pending', 'running']), ('workflow__isnull', False)), fields=['workflow', 'cycle'], name='run_of_workflow_not_over'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(condition=models.Q(('waits_for__isnull', False)), fields=['waits_for'], name='run_waits_for'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.CheckConstraint(condition=models.Q(('waits', False), models.Q(('ended_at', None), models.Q(('lane__isnull', False), ('waits_for__isnull', False), _connector='OR')), _connector='OR'), name='run_waits_for_something'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.CheckConstraint(condition=models.Q(('waits_for', None), ('waits', True), _connector='OR'), name='run_waits_while_it_waits_for'),
        ),
        migrations.RunSQL(HOT_PATH.read_text(), migrations.RunSQL.noop),
    ]
