"""Every point at which a workflow was due, with its run or the reason why it has none."""

import django.db.models.deletion
import django.db.models.functions.datetime
import django.db.models.lookups
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('runs', '0024_variables'),
        ('workflows', '0008_schedule_points'),
    ]

    operations = [
        migrations.CreateModel(
            name='SchedulePoint',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('cycle', models.DateTimeField()),
                ('reason', models.CharField(blank=True, choices=[('', 'None'), ('overlap', 'Overlap'), ('missed', 'Missed'), ('fault', 'Fault')], default='', max_length=10)),
                ('note', models.TextField(blank=True, default='')),
                ('made_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('run', models.OneToOneField(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='schedule_point', to='runs.run')),
                ('workflow', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='schedule_points', to='workflows.workflow')),
            ],
            options={
                'indexes': [models.Index(models.F('made_at'), condition=models.Q(('run', None)), name='schedule_point_old')],
                'constraints': [models.UniqueConstraint(fields=('workflow', 'cycle'), name='schedule_point_once'), models.CheckConstraint(condition=django.db.models.lookups.Exact(models.ExpressionWrapper(models.Q(('run', None)), models.BooleanField()), models.ExpressionWrapper(models.Q(('reason', ''), _negated=True), models.BooleanField())), name='schedule_point_has_run_or_reason')],
            },
        ),
    ]
