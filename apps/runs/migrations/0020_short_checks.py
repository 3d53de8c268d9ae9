"""Constraints in fewer words: what is meant stays the same, each write of a row reads less."""

import django.db.models.lookups
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('nodes', '0003_retention'),
        ('runs', '0019_worker_queues'),
        ('workflows', '0003_policies'),
        ('workspaces', '0003_hold'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='noderun',
            name='node_run_leased_iff_running',
        ),
        migrations.RemoveConstraint(
            model_name='noderun',
            name='node_run_retry_at_iff_retrying',
        ),
        migrations.RemoveConstraint(
            model_name='run',
            name='run_of_workflow_or_job',
        ),
        migrations.RemoveConstraint(
            model_name='run',
            name='run_ended_iff_final',
        ),
        migrations.AddConstraint(
            model_name='noderun',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.Exact(models.ExpressionWrapper(models.Q(('state', 'running')), models.BooleanField()), models.ExpressionWrapper(models.Q(('lease_until__isnull', False)), models.BooleanField())), name='node_run_leased_iff_running'),
        ),
        migrations.AddConstraint(
            model_name='noderun',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.Exact(models.ExpressionWrapper(models.Q(('state', 'retrying')), models.BooleanField()), models.ExpressionWrapper(models.Q(('retry_at__isnull', False)), models.BooleanField())), name='node_run_retry_at_iff_retrying'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.Exact(models.ExpressionWrapper(models.Q(('workflow', None)), models.BooleanField()), models.ExpressionWrapper(models.Q(('job__isnull', False)), models.BooleanField())), name='run_of_workflow_or_job'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.Exact(models.ExpressionWrapper(models.Q(('state__in', ['succeeded', 'failed', 'stopped'])), models.BooleanField()), models.ExpressionWrapper(models.Q(('ended_at__isnull', False)), models.BooleanField())), name='run_ended_iff_final'),
        ),
    ]
