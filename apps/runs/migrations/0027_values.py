"""What an attempt left in $RUNYARD_OUTPUT."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('runs', '0026_on_failure'),
    ]

    operations = [
        migrations.AddField(
            model_name='attempt',
            name='values',
            field=models.JSONField(null=True),
        ),
    ]
