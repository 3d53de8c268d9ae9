"""Lanes, who waits in them, and who is told of a run's end."""

from pathlib import Path

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

HOT_PATH = Path(__file__).resolve().parent.parent / "sql" / "hot_path.sql"


class Migration(migrations.Migration):

    dependencies = [
        ('nodes', '0003_retention'),
        ('runs', '0016_aging'),
        ('workflows', '0002_tags'),
        ('workspaces', '0003_hold'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='RunEnd',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('hook', models.CharField(max_length=64)),
                ('tries', models.PositiveIntegerField(default=0)),
                ('due_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('why', models.TextField(blank=True, default='')),
            ],
        ),
        migrations.AddField(
            model_name='run',
            name='on_end',
            field=django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=64), default=list, size=None),
        ),
        migrations.AddField(
            model_name='run',
            name='waits',
            field=models.BooleanField(default=False),
        ),
        migrations.CreateModel(
            name='Lane',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('owner', models.CharField(max_length=255)),
                ('limit', models.PositiveIntegerField(null=True)),
                ('workspace', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='lanes', to='workspaces.workspace')),
            ],
        ),
        migrations.AddField(
            model_name='run',
            name='lane',
            field=models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.RESTRICT, related_name='runs', to='runs.lane'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(condition=models.Q(('state__in', ['pending', 'running']), ('workflow__isnull', False)), fields=['workflow'], name='run_of_workflow_not_over'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(condition=models.Q(('waits', True)), fields=['lane', 'id'], name='run_line'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(condition=models.Q(('lane__isnull', False), ('state__in', ['pending', 'running']), ('waits', False)), fields=['lane'], name='run_in_lane'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.CheckConstraint(condition=models.Q(('waits', False), models.Q(('ended_at', None), ('lane__isnull', False)), _connector='OR'), name='run_waits_in_a_lane'),
        ),
        migrations.AddField(
            model_name='runend',
            name='run',
            field=models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='runs.run'),
        ),
        migrations.AddConstraint(
            model_name='lane',
            constraint=models.UniqueConstraint(fields=('workspace', 'owner'), name='lane_once'),
        ),
        migrations.AddConstraint(
            model_name='lane',
            constraint=models.CheckConstraint(condition=models.Q(('limit', None), ('limit__gt', 0), _connector='OR'), name='lane_limit_positive'),
        ),
        migrations.AddIndex(
            model_name='runend',
            index=models.Index(fields=['due_at'], name='run_end_due'),
        ),
        migrations.RunSQL(HOT_PATH.read_text(), migrations.RunSQL.noop),
    ]
