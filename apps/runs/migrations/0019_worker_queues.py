from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("runs", "0018_bells")]

    operations = [
        migrations.AddField(
            model_name="worker",
            name="queues",
            field=models.TextField(blank=True, default=""),
        ),
    ]
