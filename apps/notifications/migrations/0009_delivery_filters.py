from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('notifications', '0008_watch'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='delivery',
            index=models.Index(fields=['workspace', 'status', '-id'], name='delivery_by_status'),
        ),
        migrations.AddIndex(
            model_name='delivery',
            index=models.Index(fields=['workspace', 'address', '-id'], name='delivery_by_address'),
        ),
    ]
