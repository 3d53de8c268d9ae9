"""A workflow's zone and schedule; the workspace's and none, as nothing else is said."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('workflows', '0005_overlap_limit'),
    ]

    operations = [
        migrations.AddField(
            model_name='workflow',
            name='zone',
            field=models.CharField(blank=True, default='', max_length=64),
        ),
        migrations.AddField(
            model_name='workflow',
            name='schedule',
            field=models.JSONField(blank=True, null=True),
        ),
    ]
