"""An index for the cycles of a workflow: a long history cost each look at them a scan of it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("runs", "0030_hot_path")]

    operations = [
        migrations.AddIndex(
            model_name="run",
            index=models.Index(
                condition=models.Q(("workflow__isnull", False)),
                fields=["workflow", "cycle"],
                name="run_by_cycle",
            ),
        ),
    ]
