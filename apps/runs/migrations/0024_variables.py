"""The workspace's variables at launch, and the zone of the run's time variables."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('runs', '0023_hot_path'),
    ]

    operations = [
        migrations.AddField(
            model_name='run',
            name='variables',
            field=models.JSONField(default=dict),
        ),
        migrations.AddField(
            model_name='run',
            name='zone',
            field=models.CharField(default='UTC', max_length=64),
        ),
    ]
