"""Variables of workflows and nodes, and how far back a cycle's data lies; a day, as before."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('workflows', '0006_schedule'),
    ]

    operations = [
        migrations.AddField(
            model_name='draftnode',
            name='variables',
            field=models.JSONField(blank=True, default=dict),
        ),
        migrations.AddField(
            model_name='workflow',
            name='data_offset',
            field=models.PositiveSmallIntegerField(default=1),
        ),
        migrations.AddField(
            model_name='workflow',
            name='variables',
            field=models.JSONField(blank=True, default=dict),
        ),
    ]
