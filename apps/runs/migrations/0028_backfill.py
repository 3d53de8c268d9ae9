"""Backfills: past cycles of a workflow to be run, once each. A lane of 0 lets no run start for now."""

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('runs', '0027_values'),
        ('workflows', '0008_schedule_points'),
        ('workspaces', '0005_variable'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Backfill',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('job_versions', models.JSONField()),
                ('order', models.CharField(choices=[('oldest', 'oldest'), ('newest', 'newest')], max_length=10)),
                ('at_once', models.PositiveSmallIntegerField(default=1)),
                ('which', models.CharField(choices=[('all', 'all'), ('missing', 'missing'), ('failed', 'failed')], max_length=10)),
                ('node', models.CharField(blank=True, default='', max_length=64)),
                ('downstream', models.BooleanField(default=False)),
                ('parameters', models.JSONField(default=dict)),
                ('remarks', models.TextField(blank=True)),
                ('addresses', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=254), blank=True, default=list, size=None)),
                ('stop_after', models.PositiveIntegerField(null=True)),
                ('total', models.PositiveIntegerField()),
                ('paused_at', models.DateTimeField(null=True)),
                ('why', models.TextField(blank=True, default='')),
                ('resumed_at', models.DateTimeField(null=True)),
                ('cancelled_at', models.DateTimeField(null=True)),
                ('stop_running', models.BooleanField(default=False)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('ended_at', models.DateTimeField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name='BackfillCycle',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('cycle', models.DateTimeField()),
                ('position', models.PositiveIntegerField()),
                ('launched_at', models.DateTimeField(null=True)),
                ('ended_as', models.CharField(blank=True, choices=[('pending', 'pending'), ('running', 'running'), ('succeeded', 'succeeded'), ('failed', 'failed'), ('stopped', 'stopped')], default='', max_length=10)),
            ],
        ),
        migrations.CreateModel(
            name='BackfillEvent',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('note', models.TextField()),
                ('at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.RemoveConstraint(
            model_name='lane',
            name='lane_limit_positive',
        ),
        migrations.AddField(
            model_name='backfill',
            name='cancelled_by',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='backfill',
            name='created_by',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='backfill',
            name='lane',
            field=models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, related_name='backfill', to='runs.lane'),
        ),
        migrations.AddField(
            model_name='backfill',
            name='paused_by',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='backfill',
            name='queue',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='workspaces.resourcequeue'),
        ),
        migrations.AddField(
            model_name='backfill',
            name='version',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='backfills', to='workflows.workflowversion'),
        ),
        migrations.AddField(
            model_name='backfill',
            name='workflow',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='backfills', to='workflows.workflow'),
        ),
        migrations.AddField(
            model_name='backfill',
            name='workspace',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='backfills', to='workspaces.workspace'),
        ),
        migrations.AddField(
            model_name='backfillcycle',
            name='backfill',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='cycles', to='runs.backfill'),
        ),
        migrations.AddField(
            model_name='backfillcycle',
            name='run',
            field=models.OneToOneField(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='backfill_cycle', to='runs.run'),
        ),
        migrations.AddField(
            model_name='backfillevent',
            name='backfill',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='events', to='runs.backfill'),
        ),
        migrations.AddField(
            model_name='backfillevent',
            name='user',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddIndex(
            model_name='backfill',
            index=models.Index(fields=['workspace', '-id'], name='backfill_by_workspace'),
        ),
        migrations.AddIndex(
            model_name='backfill',
            index=models.Index(fields=['workflow', '-id'], name='backfill_by_workflow'),
        ),
        migrations.AddIndex(
            model_name='backfill',
            index=models.Index(condition=models.Q(('ended_at', None)), fields=['id'], name='backfill_not_over'),
        ),
        migrations.AddConstraint(
            model_name='backfill',
            constraint=models.CheckConstraint(condition=models.Q(('at_once__gte', 1), ('at_once__lte', 1000)), name='backfill_at_once_in_range'),
        ),
        migrations.AddConstraint(
            model_name='backfill',
            constraint=models.CheckConstraint(condition=models.Q(('stop_after', None), ('stop_after__gt', 0), _connector='OR'), name='backfill_stop_after_positive'),
        ),
        migrations.AddConstraint(
            model_name='backfill',
            constraint=models.CheckConstraint(condition=models.Q(('paused_at', None), models.Q(('cancelled_at', None), ('ended_at', None)), _connector='OR'), name='backfill_paused_is_not_over'),
        ),
        migrations.AddIndex(
            model_name='backfillcycle',
            index=models.Index(condition=models.Q(('launched_at', None)), fields=['backfill', 'position'], name='backfill_cycle_to_come'),
        ),
        migrations.AddConstraint(
            model_name='backfillcycle',
            constraint=models.UniqueConstraint(fields=('backfill', 'cycle'), name='backfill_cycle_once'),
        ),
        migrations.AddConstraint(
            model_name='backfillcycle',
            constraint=models.UniqueConstraint(fields=('backfill', 'position'), name='backfill_place_once'),
        ),
        migrations.AddConstraint(
            model_name='backfillcycle',
            constraint=models.CheckConstraint(condition=models.Q(('run', None), ('launched_at__isnull', False), _connector='OR'), name='backfill_cycle_with_run_was_launched'),
        ),
    ]
