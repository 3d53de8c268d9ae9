"""How many scheduled runs of a workflow may be under way at once; 16, as nothing else is said."""

from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('workflows', '0004_overlap'),
        ('workspaces', '0004_secret'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name='workflow',
            name='overlap_limit',
            field=models.PositiveSmallIntegerField(default=16),
        ),
        migrations.AddConstraint(
            model_name='workflow',
            constraint=models.CheckConstraint(condition=models.Q(('overlap_limit__gt', 0)), name='workflow_overlap_limit_positive'),
        ),
    ]
